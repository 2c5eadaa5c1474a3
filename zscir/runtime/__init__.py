"""What every room uses: errors, settings, specs, schemas, progress, child processes, retries."""
