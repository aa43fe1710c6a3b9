//! Black-box tests against real peers.
