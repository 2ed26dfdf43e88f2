"""What keeping less would give: retention policies in a plan's own terms."""

from __future__ import annotations

from collections.abc import Iterable

from kvsim.memory.rank import Rank
from kvsim.memory.retention import COMMON_POLICIES, Full, parse_retention, retention_table
from kvsim.planning.plan_types import RetentionChoice
from kvsim.planning.sizing import Sizing

__all__ = ["retention_choices"]


def retention_choices(
    sizing: Sizing, context: int, asked: Iterable[str]
) -> tuple[RetentionChoice, ...]:
    """Set retention policies beside full retention, for sequences of `context` tokens.

    Parameters
    ----------
    sizing : Sizing
        The deployment and its pool.
    context : int
        Tokens of a sequence.
    asked : iterable of str
        Policies such as "window:4096"; the common ones when there are none.

    Raises
    ------
    InputError
        For a policy that cannot be read.
    """
    chosen = tuple(parse_retention(text) for text in asked)
    policies = (Full(), *(policy for policy in chosen if policy != Full())) if chosen else None
    rows = retention_table(
        sizing.deployment.model,
        sizing.kv_format,
        context,
        policies or COMMON_POLICIES,
        Rank(tp=sizing.rank.tp),  # shares of the whole model, whatever its stages
    )
    full_bytes = sizing.kept_bytes(context)
    full_requests = sizing.pools.concurrency(context)
    most_requests = sizing.pools.concurrency_beside(context)
    return tuple(
        RetentionChoice(
            policy=row.policy,
            context_len=context,
            kept_tokens=row.kept_tokens,
            sequence_bytes=round(row.fraction * full_bytes),
            share=row.fraction,
            requests=int(min(full_requests / row.fraction, most_requests)),
            price=row.price,
        )
        for row in rows
    )
