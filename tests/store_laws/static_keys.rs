//! What of the laws of keys holds for keys that nobody can change.

use tollgate::{
    key::{KeyDigest, Rehash},
    store::{KeyLookup, StaticKeys},
};

use crate::engines::later;

#[tokio::test]
async fn a_key_of_the_configuration_is_found_by_its_whole_digest_and_stays_as_it_is() {
    let keys = StaticKeys::new()
        .add_key("ci", "a-key-for-the-ci-server", ["client"])
        .unwrap();
    let digest = KeyDigest::of("a-key-for-the-ci-server");
    let found = keys.find(&digest).await.unwrap().unwrap();
    assert_eq!((found.digest, found.owner.as_str()), (digest, "ci"));
    for other in ["a-key-for-the-ci-", "a-key-for-the-ci-server ", ""] {
        assert_eq!(keys.find(&KeyDigest::of(other)).await.unwrap(), None);
    }
    keys.touch(&found.id, later(3));
    let rehash = Rehash {
        id: found.id.clone(),
        from: digest,
        from_proof: found.proof.clone(),
        digest: KeyDigest::of("another"),
        proof: found.proof.clone(),
    };
    assert!(!keys.rehash(rehash).await.unwrap());
    assert_eq!(keys.recently_used(9).await.unwrap(), []);
    assert_eq!(keys.find(&digest).await.unwrap(), Some(found));
    assert_eq!(keys.find(&KeyDigest::of("another")).await.unwrap(), None);
}
