//! What the author of a native smpnet plugin depends on.
