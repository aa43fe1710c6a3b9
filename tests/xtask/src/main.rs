//! The two commands of the README and the chores.

fn main() {}
