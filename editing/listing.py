"""What `unified edit --list` shows and `--find` makes: the attribute directions of a backbone."""

from __future__ import annotations

from editing.directions import directions_for, save_directions, user_file
from unified.contract.backbone import Backbone, Renders
from unified.contract.progress import Progress
from unified.directions_hook import direction_sources
from unified.errors import UserError


class AttributeDirections:
    """The directions in the backbone's direction file."""

    def directions(self, backbone: Backbone) -> dict[str, str]:
        if not isinstance(backbone, Renders):
            return {}
        try:
            found = directions_for(backbone)
        except UserError:
            return {}  # none were made for these weights; asking for an edit says how
        return {
            name: f"accuracy {direction.accuracy:.0%}, shown by {direction.share:.0%} of samples"
            for name, direction in found.items.items()
        }

    def find(self, backbone: Backbone, *, progress: Progress) -> str | None:
        if not isinstance(backbone, Renders):
            return None
        from editing.find_directions import find_directions
        from unified.extractors import attributes

        found = find_directions(backbone, attributes.load(), extractor="avatars/attributes", progress=progress)
        path = save_directions(found, user_file(backbone.fingerprint))
        return f"{len(found.items)} attribute directions, judged by avatars/attributes: {path}"


direction_sources.register("attribute directions", AttributeDirections())
