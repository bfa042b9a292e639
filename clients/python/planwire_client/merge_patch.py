"""RFC 7396 merge patches, applied. Pure."""

from __future__ import annotations


def apply(target: object, patch: object) -> object:
    """Return `target` with `patch` merged in (RFC 7396 section 2); neither changes, untouched branches are shared."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply(merged.get(key), value)
    return merged
