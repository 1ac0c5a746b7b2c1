//! Argon2 in memory that is reused from one hash to the next.
//!
//! A hash uses tens of megabytes. If these are allocated anew each time, on changing threads, they
//! end up scattered over the allocator's arenas, which grow and never shrink.

use std::sync::Mutex;

use argon2::{
    Algorithm, Argon2, Block, Params, Version,
    password_hash::phc::{Output, ParamsString, PasswordHash, Salt},
};

use crate::sync::lock;

/// The length of a hash in bytes.
const OUTPUT_LENGTH: usize = 32;

/// Argon2id with the current parameters.
pub(super) struct Hasher {
    params: Params,
    /// Free buffers: as many as were ever in use at once, each sized for the current parameters.
    buffers: Mutex<Vec<Vec<Block>>>,
}

impl Hasher {
    pub(super) fn new(params: Params) -> Self {
        Self {
            params,
            buffers: Mutex::default(),
        }
    }

    pub(super) fn params(&self) -> &Params {
        &self.params
    }

    /// A PHC string with a random salt; `None` if there is no randomness or no memory.
    pub(super) fn hash(&self, password: &[u8]) -> Option<String> {
        let mut salt = [0; Salt::RECOMMENDED_LENGTH];
        getrandom::fill(&mut salt).ok()?;
        let mut output = [0; OUTPUT_LENGTH];
        let (algorithm, version) = (Algorithm::Argon2id, Version::V0x13);
        let argon2 = Argon2::new(algorithm, version, self.params.clone());
        self.compute(&argon2, password, &salt, &mut output)?;
        let hash = PasswordHash {
            algorithm: algorithm.ident(),
            version: Some(version.into()),
            params: ParamsString::try_from(&self.params).ok()?,
            salt: Some(Salt::new(&salt).ok()?),
            hash: Some(Output::new(&output).ok()?),
        };
        Some(hash.to_string())
    }

    /// Whether `password` has this hash, which was made with `params`. Compared in constant time.
    pub(super) fn matches_hash(
        &self,
        password: &[u8],
        hash: &PasswordHash,
        params: &Params,
    ) -> bool {
        self.compare(password, hash, params).unwrap_or(false)
    }

    fn compare(&self, password: &[u8], hash: &PasswordHash, params: &Params) -> Option<bool> {
        let algorithm = Algorithm::try_from(hash.algorithm.as_str()).ok()?;
        let version = hash.version.map(Version::try_from).transpose().ok()?;
        let expected = hash.hash?;
        let argon2 = Argon2::new(algorithm, version.unwrap_or_default(), params.clone());
        let mut room = [0; Output::MAX_LENGTH];
        let output = room.get_mut(..expected.len())?;
        self.compute(&argon2, password, &hash.salt?, output)?;
        Some(Output::new(output).ok()? == expected)
    }

    /// Takes as long as a hash with these parameters, and discards the result.
    pub(super) fn burn_time(&self, password: &[u8], params: Params) {
        let argon2 = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
        let mut output = [0; OUTPUT_LENGTH];
        let salt = [0; Salt::RECOMMENDED_LENGTH];
        let _ = self.compute(&argon2, password, &salt, &mut output);
    }

    fn compute(
        &self,
        argon2: &Argon2<'_>,
        password: &[u8],
        salt: &[u8],
        output: &mut [u8],
    ) -> Option<()> {
        let (wanted, most) = (argon2.params().block_count(), self.params.block_count());
        let buffers = || lock(&self.buffers);
        // Buffers larger than the current parameters need are rarely used, and not kept.
        let mut blocks = if wanted > most {
            allocate(wanted)?
        } else {
            let free = buffers().pop();
            free.map_or_else(|| allocate(most), Some)?
        };
        let room = blocks.get_mut(..wanted)?;
        let done = argon2.hash_password_into_with_memory(password, salt, output, room);
        if blocks.len() == most {
            buffers().push(blocks);
        }
        done.ok()
    }
}

/// Allocates `count` blocks; `None` if there is not enough memory.
fn allocate(count: usize) -> Option<Vec<Block>> {
    let mut blocks = Vec::new();
    blocks.try_reserve_exact(count).ok()?;
    blocks.resize(count, Block::default());
    Some(blocks)
}

#[cfg(test)]
mod tests {
    use argon2::{PasswordHasher, PasswordVerifier};

    use super::*;

    fn params(memory_kib: u32) -> Params {
        Params::new(memory_kib, 2, 1, None).unwrap()
    }

    fn buffers(hasher: &Hasher) -> Vec<usize> {
        let buffers = hasher.buffers.lock().unwrap();
        buffers.iter().map(Vec::len).collect()
    }

    #[test]
    fn hashes_are_those_of_the_library() {
        let hasher = Hasher::new(params(64));
        let ours = hasher.hash(b"horse").unwrap();
        let library = Argon2::default();
        library.verify_password(b"horse", ours.as_str()).unwrap();
        for (algorithm, version, params) in [
            (Algorithm::Argon2id, Version::V0x13, params(64)),
            (Algorithm::Argon2d, Version::V0x13, params(32)),
            (Algorithm::Argon2i, Version::V0x10, params(128)),
            (
                Algorithm::Argon2id,
                Version::V0x13,
                Params::new(64, 1, 4, Some(64)).unwrap(),
            ),
        ] {
            let theirs = Argon2::new(algorithm, version, params.clone());
            let theirs = theirs.hash_password(b"horse").unwrap();
            assert!(hasher.matches_hash(b"horse", &theirs, &params), "{theirs}");
            assert!(!hasher.matches_hash(b"mule", &theirs, &params), "{theirs}");
        }
    }

    #[test]
    fn memory_is_kept_for_as_many_as_hash_at_once_and_no_more_of_it() {
        let hasher = Hasher::new(params(64));
        assert!(buffers(&hasher).is_empty());
        for _ in 0..3 {
            hasher.hash(b"horse").unwrap();
            hasher.burn_time(b"horse", params(16));
        }
        assert_eq!(buffers(&hasher), [64]);
        hasher.burn_time(b"horse", params(128));
        assert_eq!(
            buffers(&hasher),
            [64],
            "not what others' parameters ask for"
        );
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| hasher.hash(b"horse").unwrap());
            }
        });
        assert!((1..=4).contains(&buffers(&hasher).len()));
    }
}
