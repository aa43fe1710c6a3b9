//! What procedures do to packets.
