"""Automations of a Prefect server: mark flow runs without a heartbeat as crashed, and notify of runs that stop.

Prefect's own detection of dead flow runs belongs to its cloud; a self-hosted server needs these rules.
"""

from dataclasses import dataclass
from datetime import timedelta
from uuid import UUID

from prefect.blocks.webhook import Webhook
from prefect.client.orchestration import PrefectClient
from prefect.client.schemas.objects import StateType
from prefect.events.actions import ActionTypes, CallWebhook, ChangeFlowRunState, SendNotification
from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
from prefect.events.schemas.events import ResourceSpecification
from prefect.exceptions import ObjectNotFound

from flows.outcome import BUDGET_STATE, GATE_STATE
from zscir.runtime.errors import RequestError

STALE_RUNS_AUTOMATION = "zscir: a run without a heartbeat has crashed"
NOTIFY_AUTOMATION = "zscir: tell when a run stops"
WEBHOOK_BLOCK = "zscir-notifications"
# Prefect sends a heartbeat every 180 s; three in a row must be missing. Its documentation suggests 90 s, which would
# mark every healthy run as crashed.
MAX_SILENCE = timedelta(seconds=540)
NOTIFIED_STATES = ("Failed", "TimedOut", "Crashed", GATE_STATE, BUDGET_STATE)

# A run that stopped has the `zscir rerun` line in its message; one that crashed has none, and is named by its flow run.
# A request that was refused before it became a run cannot be run again.
_TEMPLATE_VARIABLES = """\
{%- set message = event.resource['prefect.state-message'] or '' -%}
{%- set state = event.resource['prefect.state-name'] | lower -%}
{%- set status = 'gate' if 'GateError' in message else 'budget' if 'OverBudget' in message else state -%}
{%- set command = message.split('zscir rerun ')[1:] -%}
{%- set known = flow_run.parameters.run_id if flow.name == 'pipeline' else flow_run.id | string -%}
{%- set fallback = known if flow.name == 'pipeline' or state == 'crashed' else '' -%}
{%- set again = (command[0].split('\n')[0] if command else fallback).strip() -%}
"""
NOTIFY_PAYLOAD = (
    _TEMPLATE_VARIABLES
    + """\
{"run_id": {{ (again.split(' ')[0] or none) | tojson }}, "status": {{ status | tojson }}, \
"reason": {{ message[:2000] | tojson }}, "rerun": {{ ('zscir rerun ' ~ again if again else none) | tojson }}, \
"flow": {{ flow.name | tojson }}, "flow_run": {{ flow_run.name | tojson }}, \
"flow_run_id": {{ flow_run.id | string | tojson }}}"""
)
NOTIFY_SUBJECT = _TEMPLATE_VARIABLES + "zscir: {{ flow_run.name }}: {{ status }}"
NOTIFY_BODY = _TEMPLATE_VARIABLES + "{{ message[:2000] }}{{ '\n\nGo on with: zscir rerun ' ~ again if again else '' }}"


@dataclass(frozen=True)
class WatchedFlows:
    """Names of our flows: those of runs, and those that make a step for a run elsewhere."""

    runs: frozenset[str]
    remote_steps: frozenset[str]


def stale_runs_automation(watched: WatchedFlows, silence: timedelta = MAX_SILENCE) -> AutomationCore:
    """A flow run of ours that sent a heartbeat, and then none for ``silence``, is marked as crashed."""
    return AutomationCore(
        name=STALE_RUNS_AUTOMATION,
        description=f"Marks flow runs of zscir as crashed that were silent for {silence.total_seconds():.0f} s.",
        trigger=EventTrigger(
            after={"prefect.flow-run.heartbeat"},
            expect={"prefect.flow-run.*"},
            match=_flow_runs(),
            match_related=_named(watched.runs | watched.remote_steps),
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            threshold=1,
            within=silence,
        ),
        actions=[
            ChangeFlowRunState(
                state=StateType.CRASHED,
                message=f"no heartbeat for {silence.total_seconds():.0f} s: its process is gone or cut off",
            )
        ],
    )


def notify_automation(watched: WatchedFlows, action: ActionTypes) -> AutomationCore:
    """``action`` whenever a flow run of ours fails, is stopped by a gate, takes too long or crashes."""
    return AutomationCore(
        name=NOTIFY_AUTOMATION,
        description="Notifies of every flow run of zscir that stops before its end.",
        trigger=EventTrigger(
            expect={f"prefect.flow-run.{end}" for end in NOTIFIED_STATES},
            match=_flow_runs(),
            match_related=_named(watched.runs),
            for_each={"prefect.resource.id"},
            posture=Posture.Reactive,
            threshold=1,
            within=timedelta(0),
        ),
        actions=[action],
    )


async def ensure_automations(client: PrefectClient, watched: WatchedFlows, webhook: str | None) -> list[str]:
    """Create or update our automations on the server; return their names. RequestError for a wrong ``webhook``.

    ``webhook`` is notified of runs that stop: an http(s) address, which gets ``NOTIFY_PAYLOAD`` as JSON, or
    BLOCK-TYPE/NAME of a notification block on the server, such as slack-webhook/alerts, which gets text. Without it
    no notification is set up, and an earlier one stays. A paused automation stays paused. The same message may
    come twice: a server on SQLite takes an event again when its database was busy.
    """
    wanted = [stale_runs_automation(watched)]
    if webhook is not None:
        wanted.append(notify_automation(watched, await _notify_action(client, webhook)))
    for automation in wanted:
        await _ensure(client, automation)
    return [automation.name for automation in wanted]


async def _ensure(client: PrefectClient, wanted: AutomationCore) -> None:
    found = await client.read_automations_by_name(wanted.name)
    if not found:
        await client.create_automation(wanted)
        return
    first, *duplicates = sorted(found, key=lambda automation: automation.id)
    for duplicate in duplicates:  # made by another process at the same moment
        await client.delete_automation(duplicate.id)
    wanted = wanted.model_copy(update={"enabled": first.enabled})
    if AutomationCore.model_validate(first.model_dump(include=set(AutomationCore.model_fields))) != wanted:
        await client.update_automation(first.id, wanted)


async def _notify_action(client: PrefectClient, webhook: str) -> ActionTypes:
    if webhook.startswith(("http://", "https://")):
        return CallWebhook(block_document_id=await _webhook(client, webhook), payload=NOTIFY_PAYLOAD)
    kind, slash, name = webhook.partition("/")
    if not (kind and slash and name):
        raise RequestError("webhook: an http(s) address or BLOCK-TYPE/NAME of a notification block is needed")
    try:
        block = await client.read_block_document_by_name(name, kind)
    except ObjectNotFound:
        raise RequestError(
            f"webhook {webhook}: the Prefect server has no such block; make it on its page under Blocks"
        ) from None
    return SendNotification(block_document_id=block.id, subject=NOTIFY_SUBJECT, body=NOTIFY_BODY)


async def _webhook(client: PrefectClient, address: str) -> UUID:
    """The id of our webhook block; the server keeps its address as a secret."""
    await Webhook.aregister_type_and_schema(client=client)
    block = Webhook(url=address, headers={"Content-Type": "application/json"})
    return await block.asave(WEBHOOK_BLOCK, overwrite=True, client=client)


def _flow_runs() -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]})


def _named(flows: frozenset[str]) -> ResourceSpecification:
    return ResourceSpecification({"prefect.resource.role": "flow", "prefect.resource.name": sorted(flows)})
