//! Three segments, each with only one valid encoding.

use super::*;

#[test]
fn segments_are_three_and_canonical() {
    let good = sign(HEADER, good_claims(""));
    accepted(&good);
    let (signed, signature) = good.rsplit_once('.').unwrap();
    let (header, claims) = signed.split_once('.').unwrap();
    for token in [
        "",
        ".",
        "a",
        signed,
        &format!("{good}.AA"),
        &format!("{good}."),
        &format!(".{good}"),
        &format!("{header}..{claims}.{signature}"),
        &format!("{good}="),
        &format!("{good} "),
        &format!(" {good}"),
        &format!("{good}\n"),
        &good.replace('.', ". "),
        &format!("{signed}.{}+", &signature[..42]),
        &format!(r#"{{"payload":"{claims}","protected":"{header}","signature":"{signature}"}}"#),
    ] {
        refused(token, Kind::Malformed);
    }
    refused(&format!("{signed}."), Kind::BadSignature);
    refused("..", Kind::BadSignature);
    // 32 bytes take 42 characters and 4 bits: 2 of the last character's 6 bits must be 0.
    let last = signature.as_bytes()[42];
    let alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let index = alphabet.iter().position(|other| *other == last).unwrap();
    for bits in 1..4 {
        let twisted = char::from(alphabet[index | bits]);
        refused(
            &format!("{signed}.{}{twisted}", &signature[..42]),
            Kind::Malformed,
        );
    }
    // Padding inside, covered by the signature.
    let padded = base64::engine::general_purpose::URL_SAFE.encode(r#"{"sub":"me"}  "#);
    assert!(padded.ends_with('='));
    refused(
        &sign_segments(&format!("{header}.{padded}"), CANARY),
        Kind::Malformed,
    );
}

#[test]
fn every_changed_character_is_noticed() {
    let good = sign(HEADER, good_claims(""));
    let (verifier, _) = setup();
    verifier.verify(&good).unwrap();
    for at in 0..good.len() {
        let mut bytes = good.clone().into_bytes();
        bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
        assert!(
            verifier.verify(&String::from_utf8(bytes).unwrap()).is_err(),
            "character {at}"
        );
    }
    for length in 0..good.len() {
        assert!(verifier.verify(&good[..length]).is_err(), "first {length}");
    }
}
