//! Every performance figure that smpnet claims.

fn main() {}
