"""Condition monitoring of photovoltaic plants (Maaløe's thesis, chapter 6). Needs the extra
`[pv]`."""
