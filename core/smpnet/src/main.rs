//! A user-space, multi-core network stack and router.

fn main() {}
