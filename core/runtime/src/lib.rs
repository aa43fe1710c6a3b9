//! The small core: workers, softint, pserialize, psref, pslist, pktqueue, callout, counters, packet pool, pfil.
