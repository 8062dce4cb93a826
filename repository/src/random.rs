//! The operating system's randomness, in one place.

/// `N` bytes that nobody can predict.
///
/// Panics if the operating system has no randomness to give: nothing that follows would be safe.
pub(crate) fn bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    aws_lc_rs::rand::fill(&mut bytes).expect("the operating system's random source answers");
    bytes
}
