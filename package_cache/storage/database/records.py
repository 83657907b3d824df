"""How a `Representation` is written down: one JSON object, the same in the registry and beside a part."""

import json

from package_cache.model import Representation


def dump(representation: Representation) -> str:
    """The JSON text of a representation."""
    record: dict[str, object] = {
        "fields": representation.fields,
        "size": representation.size,
        "source": representation.source,
        "received": representation.received,
    }
    if representation.good_until is not None:
        record["good_until"] = representation.good_until
    return json.dumps(record)


def load(text: str) -> Representation:
    """The representation that `dump` wrote. Raises ValueError for any other text."""
    try:
        data = json.loads(text)
        return Representation(
            fields=tuple((str(name), str(value)) for name, value in data["fields"]),
            size=None if data["size"] is None else int(data["size"]),
            source=str(data["source"]),
            received=float(data["received"]),
            good_until=float(data["good_until"]) if "good_until" in data else None,
        )
    except (KeyError, TypeError) as error:
        raise ValueError(f"not a representation: {error}") from None
