"""Energy: read from counters, estimated from counted work, or taken from an external power meter's log.

Stands below `cost`, whose meters read the counters; takes and gives plain numbers and knows no network.
"""

from earlybird.energy.counters import NO_ENERGY_COUNTER, EnergyCounter, NoCounter, find_counter, measure_idle
from earlybird.energy.estimate import estimated_joules, unit_energies
from earlybird.energy.sharing import most_others

__all__ = [
    "NO_ENERGY_COUNTER", "EnergyCounter", "NoCounter", "estimated_joules", "find_counter", "measure_idle",
    "most_others", "unit_energies",
]  # fmt: skip
