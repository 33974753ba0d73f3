"""What an app was at each of its deployments, so that it can be that again."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from modal_proto import api_pb2

from ..store import join_parts, split_parts
from .functions import Draft

__all__ = ["Deployment"]


@dataclass(frozen=True, slots=True)
class Deployment:
    """
    Attributes:
        function_ids, class_ids: of what the app published, by their tags.
        drafts: what its functions were, by their ids.
    """

    function_ids: Mapping[str, str]
    class_ids: Mapping[str, str]
    drafts: Mapping[str, Draft]

    def pack(self) -> bytes:
        """Itself as bytes, for the store."""
        layout = api_pb2.AppLayout(function_ids=self.function_ids, class_ids=self.class_ids)
        drafts = (
            join_parts(
                function_id.encode(),
                draft.data.SerializeToString(),
                draft.metadata.SerializeToString(),
                draft.python.encode(),
                draft.client.encode(),
            )
            for function_id, draft in self.drafts.items()
        )
        return join_parts(layout.SerializeToString(), *drafts)

    @classmethod
    def unpack(cls, data: bytes) -> Deployment:
        head, *rest = split_parts(data)
        layout = api_pb2.AppLayout.FromString(head)
        drafts = {}
        for function_id, *parts in map(split_parts, rest):
            drafts[function_id.decode()] = Draft(
                api_pb2.FunctionData.FromString(parts[0]),
                api_pb2.FunctionHandleMetadata.FromString(parts[1]),
                parts[2].decode(),
                parts[3].decode(),
            )
        return cls(dict(layout.function_ids), dict(layout.class_ids), drafts)
