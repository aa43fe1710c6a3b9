//! Scenarios of a whole router.
