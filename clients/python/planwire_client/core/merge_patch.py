"""RFC 7396 merge patches between two JSON values. Pure."""

from __future__ import annotations


def apply(target: object, patch: object) -> object:
    """Return `target` with `patch` merged in (RFC 7396 section 2); neither argument is changed."""
    if not isinstance(patch, dict):
        return patch
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = apply(merged.get(key), value)
    return merged


def diff(old: object, new: object) -> dict[str, object] | None:
    """Return the merge patch that turns `old` into `new`, or None if there is none.

    Both values must be objects, and no object in `new` may have a null member: in a merge patch null means "remove"
    (RFC 7396 section 1).
    """
    if not isinstance(old, dict) or not isinstance(new, dict):
        return None
    patch: dict[str, object] = dict.fromkeys(old.keys() - new.keys())
    for key, value in new.items():
        before = old.get(key)
        if key in old and _same(before, value):
            continue
        if isinstance(value, dict) and isinstance(before, dict):
            inner = diff(before, value)
        else:
            inner = None if _has_null_member(value) else value
        if inner is None:
            return None
        patch[key] = inner
    return patch


def _has_null_member(value: object) -> bool:
    """Whether `value` or an object in it (outside arrays) has a null member, which merging would drop."""
    return isinstance(value, dict) and any(inner is None or _has_null_member(inner) for inner in value.values())


def _same(a: object, b: object) -> bool:
    """Whether two values are equal as JSON: unlike `==`, true is not 1, 1 is not 1.0 and 0.0 is not -0.0."""
    if type(a) is not type(b):
        return False
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_same(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(map(_same, a, b))
    return a == b and (type(a) is not float or str(a) == str(b))
