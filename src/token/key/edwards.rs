//! Encodings of points that are unsafe or invalid as Ed25519 keys.

use super::KeyError;

/// The `y` of the eight points whose order divides eight, little-endian: 1 (the identity), -1, 0,
/// and two that four points share. For such a key there are signatures that fit every message, or
/// every eighth, and anyone who knows how can make them. RFC 8032 leaves the check to the verifier,
/// and the libraries leave it to the user.
const SMALL: [[u8; 32]; 5] = [
    y(1, 0, 0),
    y(0xec, 0xff, 0x7f),
    y(0, 0, 0),
    [
        38, 232, 149, 143, 194, 178, 39, 176, 69, 195, 244, 137, 242, 239, 152, 240, 213, 223, 172,
        5, 211, 198, 51, 57, 177, 56, 2, 136, 109, 83, 252, 5,
    ],
    [
        199, 23, 106, 112, 61, 77, 216, 79, 186, 60, 11, 118, 13, 16, 103, 15, 42, 32, 83, 250, 44,
        57, 204, 198, 78, 199, 253, 119, 146, 172, 3, 122,
    ],
];

const fn y(first: u8, middle: u8, last: u8) -> [u8; 32] {
    let mut y = [middle; 32];
    let [low, .., high] = &mut y;
    (*low, *high) = (first, last);
    y
}

/// Refuses points that anyone could sign for, and non-canonical encodings of a point (RFC 8032
/// section 5.1.3).
pub(super) fn check(point: &[u8; 32]) -> Result<(), KeyError> {
    let mut y = *point;
    // The sign of x.
    let [first, middle @ .., last] = &mut y;
    *last &= 0x7f;
    // 2^255 - 19 or more: a non-canonical encoding of a smaller number.
    if *last == 0x7f && middle.iter().all(|byte| *byte == 0xff) && *first >= 0xed {
        return Err(KeyError::Unreadable);
    }
    if SMALL.contains(&y) {
        return Err(KeyError::SmallOrder);
    }
    Ok(())
}
