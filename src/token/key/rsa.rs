//! What an RSA key must satisfy, whatever its source.

use super::KeyError;

const BITS: std::ops::RangeInclusive<usize> = 2_048..=8_192;

/// Primes by which the ROCA fingerprint is detected.
const PRIMES: [u32; 38] = [
    3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53, 59, 61, 67, 71, 73, 79, 83, 89, 97,
    101, 103, 107, 109, 113, 127, 131, 137, 139, 149, 151, 157, 163, 167,
];

/// Checks a modulus and an exponent, big-endian without leading zeros.
pub(super) fn check(modulus: &[u8], exponent: &[u8]) -> Result<(), KeyError> {
    if !BITS.contains(&bits(modulus)) {
        return Err(KeyError::RsaLength);
    }
    let is_odd = |number: &[u8]| number.last().is_some_and(|last| last & 1 == 1);
    // Below 65,537 there is no odd number of 17 bits.
    let exponent_fits = (17..=33).contains(&bits(exponent));
    if !is_odd(modulus) || !is_odd(exponent) || !exponent_fits {
        return Err(KeyError::RsaNumbers);
    }
    if PRIMES.into_iter().all(|prime| is_marked(modulus, prime)) {
        return Err(KeyError::Roca);
    }
    Ok(())
}

/// Without leading zeros (RFC 7518 section 6.3.1.1 warns of libraries that write them).
pub(super) fn trimmed(number: &[u8]) -> &[u8] {
    let zeros = number.iter().take_while(|byte| **byte == 0).count();
    number.get(zeros..).unwrap_or_default()
}

fn bits(number: &[u8]) -> usize {
    let number = trimmed(number);
    let unused = number.first().map_or(0, |first| first.leading_zeros());
    number
        .len()
        .saturating_mul(8)
        .saturating_sub(usize::try_from(unused).unwrap_or(0))
}

/// The faulty generator produced primes that are powers of 65,537 modulo many small primes, and so
/// are their products (Nemec et al., "The Return of Coppersmith's Attack", 2017). About one in 2^27
/// other moduli is as well.
fn is_marked(modulus: &[u8], prime: u32) -> bool {
    let remainder = modulus
        .iter()
        .fold(0, |rest, byte| modulo(rest, 256, u32::from(*byte), prime));
    let mut power = 1;
    for _ in 0..prime {
        if power == remainder {
            return true;
        }
        power = modulo(power, 65_537, 0, prime);
    }
    false
}

/// `(a * b + c) mod prime`, all of them small.
fn modulo(a: u32, b: u32, c: u32, prime: u32) -> u32 {
    a.saturating_mul(b)
        .saturating_add(c)
        .checked_rem(prime)
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const F4: &[u8] = &[1, 0, 1];

    /// `number * factor + more`, big-endian.
    fn times(number: &mut Vec<u8>, factor: u32, more: u32) {
        let mut carry = u64::from(more);
        let split = |value: u64| (value.to_le_bytes()[0], value >> 8);
        for digit in number.iter_mut().rev() {
            let value = u64::from(*digit).wrapping_mul(u64::from(factor));
            (*digit, carry) = split(value.wrapping_add(carry));
        }
        while carry > 0 {
            let (digit, rest) = split(carry);
            number.insert(0, digit);
            carry = rest;
        }
    }

    /// 1 modulo every prime: 65,537 to the power of 0.
    fn marked() -> Vec<u8> {
        let mut number = vec![1];
        // Twice each, and the even prime, so that what comes out is odd.
        for prime in PRIMES.into_iter().chain([2]) {
            times(&mut number, prime, 0);
        }
        while bits(&number) < 2_040 {
            times(&mut number, 251, 0);
        }
        times(&mut number, 256, 0);
        *number.last_mut().unwrap() = 1;
        number
    }

    #[test]
    fn what_the_faulty_generator_made_is_known_by_its_mark() {
        let mut number = marked();
        assert_eq!(check(&number, F4), Err(KeyError::Roca));
        *number.last_mut().unwrap() = 3;
        assert_eq!(check(&number, F4), Ok(()));
    }

    #[test]
    fn sizes_and_exponents_have_bounds() {
        let modulus = |bytes: usize, last: u8| {
            let mut modulus = vec![0xa7; bytes];
            *modulus.last_mut().unwrap() = last;
            modulus
        };
        assert_eq!(check(&modulus(256, 1), F4), Ok(()));
        assert_eq!(check(&modulus(256, 2), F4), Err(KeyError::RsaNumbers));
        let mut short = modulus(256, 1);
        short[0] = 0x7f;
        assert_eq!(check(&short, F4), Err(KeyError::RsaLength));
        for bytes in [0, 1, 128, 1_025] {
            let modulus = vec![0xa7; bytes];
            assert_eq!(check(&modulus, F4), Err(KeyError::RsaLength));
        }
        for exponent in [
            &[][..],
            &[0],
            &[1],
            &[3],
            &[0xff, 0xff],
            &[1, 0, 0],
            &[2, 0, 0, 0, 1],
        ] {
            let outcome = check(&modulus(256, 1), exponent);
            assert_eq!(outcome, Err(KeyError::RsaNumbers), "{exponent:?}");
        }
        assert_eq!(trimmed(&[0, 0, 1, 0]), [1, 0]);
    }
}
