"""The variables that kubelet sets in every container for a Service of its namespace."""

from __future__ import annotations


def service_links(service: str, address: str, *ports: tuple[str, int, str]) -> dict[str, str]:
    """Return the variables of one Service: `ports` as (name, number, protocol), the name "" for none.

    Source: https://github.com/kubernetes/kubernetes/blob/master/pkg/kubelet/envvars/envvars.go
    """
    name = service.upper().replace("-", "_")
    host = f"[{address}]" if ":" in address else address
    found = {f"{name}_SERVICE_HOST": address, f"{name}_SERVICE_PORT": str(ports[0][1])}
    for index, (port_name, number, protocol) in enumerate(ports):
        if port_name:
            found[f"{name}_SERVICE_PORT_{port_name.upper().replace('-', '_')}"] = str(number)
        url = f"{protocol.lower()}://{host}:{number}"
        if index == 0:
            found[f"{name}_PORT"] = url
        prefix = f"{name}_PORT_{number}_{protocol.upper()}"
        found |= {
            prefix: url,
            f"{prefix}_PROTO": protocol.lower(),
            f"{prefix}_PORT": str(number),
            f"{prefix}_ADDR": address,
        }
    return found


LINKS = (
    service_links("planwire", "10.96.0.12", ("", 80, "TCP"))
    | service_links("planwire-web", "fd00:10:96::c", ("http", 80, "TCP"), ("metrics", 9100, "TCP"))
    | service_links("planwire-dns", "10.96.0.13", ("dns", 53, "UDP"), ("sig", 36412, "SCTP"))
)
"""Those of three Services whose names begin like our settings."""
