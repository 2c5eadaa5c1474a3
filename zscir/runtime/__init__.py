"""What every package uses: errors, settings, specs, schemas, progress, child processes, retries."""
