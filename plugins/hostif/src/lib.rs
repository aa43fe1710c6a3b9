//! Linux interfaces as ports: AF_PACKET and TAP.
