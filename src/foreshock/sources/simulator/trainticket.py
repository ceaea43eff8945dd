"""Train Ticket: 41 services and their call graph, and which of them have KPI columns.

Services are those of the benchmark's source (github.com/FudanSELab/train-ticket, Apache-2.0) that the paper
counts (Zhou et al. 2018: 41 of them), in the release that Nezha recorded on 2023-01-29: a gateway came, the
ticket-info service went into `basic`, the food map became two services, and the ticket office sleeps. Who
asks whom is read from the services' code; how often, what a call costs, memory and CPU at rest are round
figures that bring the recorded medians (64 users' worth of load, about 1.5 calls a second at the gateway).
"""

from __future__ import annotations

from dataclasses import replace

from foreshock.sources.simulator.system import FOUND, SESSION, Call, Service, System

# name, CPU ms a call, idle ms a call, MiB after a start, CPU at rest (share of half a core), CPU noise,
# latency spread, hiccups, calls that come together, node; callers stand before callees
_SERVICES = """
ui-dashboard        0.4   0.2    9  0.001  0.30  0.50 0.00 1   0
gateway            26.0  50.0  600  0.012  0.24  0.50 0.00 1   8
preserve           45.0 120.0  450  0.004  0.62  0.70 0.03 1   3
preserve-other     45.0 120.0  440  0.005  0.65  0.70 0.03 1   0
rebook             40.0 100.0  352  0.0036 0.60  0.70 0.03 1   5
cancel             60.0 120.0  422  0.012  0.55  0.60 0.03 1   7
execute             8.0   1.0  410  0.0042 0.62  0.50 0.04 1   3
travel-plan        20.0  60.0  346  0.0039 0.50  0.70 0.03 1   6
route-plan         20.0  60.0  352  0.0032 0.55  0.70 0.03 1   3
admin-travel       20.0  60.0  362  0.0033 0.65  0.70 0.03 1   3
admin-order        20.0  60.0  358  0.0080 0.55  0.70 0.03 1   1
admin-route        20.0  60.0  358  0.0075 0.50  0.70 0.03 1   2
admin-basic-info   20.0  60.0  352  0.0040 0.55  0.70 0.03 1   0
admin-user         20.0  60.0  364  0.0040 0.60  0.70 0.03 1   0
voucher             5.0  30.0   17  0.0    0.50  0.70 0.03 1   8
food               30.0  22.0  500  0.0050 0.55  0.30 0.02 2   5
travel             11.0 120.0  482  0.0070 0.50  0.80 0.08 1   0
travel2            13.0  10.0  472  0.0085 0.52  0.65 0.06 1  11
basic              10.0  90.0  425  0.0055 0.46  0.80 0.05 1   6
seat               10.0  16.0  440  0.0060 0.42  0.70 0.10 1   9
security           10.0  38.0  400  0.0060 0.60  0.70 0.03 1   3
inside-payment     45.0  50.0  496  0.0110 0.58  0.60 0.04 1   7
payment             9.0  18.0  446  0.0090 0.52  0.40 0.03 1  10
auth               70.0  80.0  448  0.0060 0.58  0.28 0.02 1   5
verification-code   3.5   0.0  384  0.0040 0.62  0.40 0.01 2   5
user                6.5   0.0  430  0.0055 0.65  0.35 0.03 1   6
contacts           12.0   2.0  444  0.0085 0.56  0.30 0.04 2   8
notification       15.0  40.0  388  0.0042 0.50  0.60 0.03 1   4
assurance          12.0   7.0  412  0.0048 0.58  0.60 0.03 1   4
consign            15.0  30.0  402  0.0038 0.60  0.60 0.03 1   0
consign-price      10.0  20.0  404  0.0088 0.55  0.60 0.03 1   7
order               8.0   5.0  446  0.0070 0.40  0.60 0.15 1   6
order-other         6.0   6.0  438  0.0075 0.48  0.45 0.02 1   5
station-food       10.0   5.0  428  0.0090 0.55  0.35 0.03 1   7
train-food         10.0   3.0  404  0.0058 0.55  0.35 0.03 1   4
route               9.0   6.0  439  0.0085 0.44  0.28 0.03 1   7
train               6.0   1.0  446  0.0080 0.50  0.30 0.03 1   8
price               6.0   1.0  456  0.0075 0.52  0.35 0.03 1   8
config              1.4   0.3  428  0.0045 0.60  0.35 0.00 1   3
station             2.5   0.3  426  0.0050 0.58  0.35 0.03 1   6
news                0.2   1.0    2  0.0001 0.25  0.50 0.00 1   6
"""  # 1 ms of CPU at a limit of half a core is 0.2 % for each call a second

# caller > callee share ...; the gateway's shares are the mix of what users ask for (0: by hand only).
# ~ a search that finds something (for stations that no train connects it ends in `basic`);
# + part of what a user does in one sitting.
_CALLS = """
ui-dashboard > gateway 1
gateway > travel+ 0.18 travel2+ 0.125 order 0.22 order-other 0.1 contacts+ 0.095 auth+ 0.05 execute+ 0.06
gateway > verification-code+ 0.05 inside-payment+ 0.04 food+ 0.037 preserve+ 0.04 preserve-other+ 0.027
gateway > cancel+ 0.028
gateway > rebook 0 travel-plan 0 route-plan 0 admin-travel 0 admin-order 0 admin-route 0 admin-basic-info 0
gateway > admin-user 0 voucher 0 consign 0 news 0 assurance 0.002 station 0.02 train 0.005
preserve > security 1 contacts 0.4 travel 0.9 basic 0.8 seat~ 1 assurance 0.4 food 0.25 order 1 user 1
preserve > station 0.8 notification 0 consign 0
preserve-other > security 1 contacts 0.4 travel2 0.9 basic 0.8 seat~ 1 assurance 0.4 food 0.25 order-other 1
preserve-other > user 1 station 0.8 notification 0 consign 0
rebook > order 1 order-other 1 travel 1 travel2 1 seat 1 train 1 route 1 inside-payment 1
cancel > order 1 order-other 0.5 inside-payment 0.9 user 0.3 notification 0
execute > order 1 order-other 0.3
travel-plan > route-plan 1 travel 1 travel2 1 seat 2 train 1 station 1
route-plan > travel 1 travel2 1 route 2 station 1
admin-travel > travel 1 travel2 1 route 1 train 1 station 1
admin-order > order 1 order-other 1
admin-route > route 1 station 1
admin-basic-info > station 1 train 1 config 1 price 1 contacts 1
admin-user > user 1
voucher > order 1
food > train-food 0.55 station-food 0.5 travel 0.02 station 0.1
travel > basic 1 seat~ 2.2 train 0.06
travel2 > basic 1 seat~ 2.2 train 0.06
basic > station 1 train~ 0.93 route~ 1.1 price~ 1
seat > order 0.6 order-other 0.42 config 0.92
security > order 1 order-other 0.9
inside-payment > order 0.5 order-other 0.4 payment 0.5
auth > verification-code 1
user > auth 0
consign > consign-price 1
order > station 0.03
order-other > station 0.03
"""


def _service(line: str) -> Service:
    """One row of the table above."""
    name, work, idle, memory, rest, noise, spread, hiccup, together, node = line.split()
    return Service(
        f"ts-{name}" if name == "ui-dashboard" else f"ts-{name}-service",
        float(work) / 1000,
        float(idle) / 1000,
        cores=0.5,
        memory_mi=float(memory),
        memory_limit_mi=2000.0,
        pool=20.0,
        router=name in ("ui-dashboard", "gateway"),
        spread=float(spread),
        background=float(rest),
        noise=float(noise),
        hiccup=float(hiccup),
        together=int(together),
        node=int(node),
    )


def _calls() -> tuple[Call, ...]:
    """The table of calls; a service that would call back the one that called it is left out."""
    full = {line.split()[0]: _service(line).name for line in _SERVICES.splitlines() if line}
    order, journeys = list(full), {"~": FOUND, "+": SESSION}
    found = []
    for line in filter(None, _CALLS.splitlines()):
        caller, rest = line.split(" > ")
        words = rest.split()
        for callee, share in zip(words[::2], words[1::2], strict=True):
            short = callee.rstrip("~+")
            if order.index(caller) < order.index(short):
                found.append(Call(full[caller], full[short], float(share), journeys.get(callee[-1], "")))
    return tuple(found)


def _named(text: str) -> tuple[str, ...]:
    return tuple(f"ts-{name}-service" for name in text.split())


# The 21 services of the 88-KPI table, in its order; 4 front-door latencies follow.
WATCHED = _named(
    "gateway order seat config order-other station travel route basic train price travel2 verification-code "
    "contacts auth user inside-payment execute food preserve payment"
)
_INSIDE = _named("order seat order-other station route basic train price")  # called by watched services
_BUSY = (*_INSIDE, *_named("travel travel2"))
_STORED = _named("order order-other station route train price")
_ASKING = _named("seat travel basic travel2")
_OWN = WATCHED[1:]  # what shows in the service's own CPU or memory shows however seldom it is called

TRAINTICKET = System(
    services=tuple(_service(line) for line in _SERVICES.splitlines() if line),
    calls=_calls(),
    peak_ops=3.0,
    think_s=5.0,
    timeout_s=10.0,
    retries=0.5,
    gives_up=0.9,
    settled=0.003,
    name="trainticket",
    entrance="ts-gateway-service",
    watched=WATCHED,
    roots={
        "cpu_contention": _OWN,
        "cpu_throttling": _OWN,
        "memory_leak": _OWN,
        "memory_restarts": _OWN,
        "service_crash": _OWN,
        "disk_pressure": _STORED,
        "network_delay": _INSIDE,
        "packet_loss": _INSIDE,
        "network_partition": _BUSY,
        "slow_query": _STORED,
        "pool_exhaustion": _STORED,
        "dns_failure": _ASKING,
        "error_storm": _named("seat travel basic"),
    },
)
TRAINTICKET_ALL = replace(TRAINTICKET, watched=())
