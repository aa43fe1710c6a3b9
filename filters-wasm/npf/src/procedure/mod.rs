//! What procedures do to packets: the parts that need nothing but the packet and some numbers.

pub mod normalize;
pub mod ratelimit;
pub mod rndblock;

pub use normalize::normalize;
pub use ratelimit::{Meter, RateLimit};
pub use rndblock::blocks;
