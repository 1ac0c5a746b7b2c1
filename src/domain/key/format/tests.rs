use proptest::prelude::*;

use super::*;

fn polysystems() -> KeyFormat {
    KeyFormat::builder("ps")
        .environments(["live", "test"])
        .alphabet(Alphabet::LowerAlphanumeric)
        .build()
        .unwrap()
}

#[test]
fn every_alphabet_makes_keys_that_it_takes_back() {
    for alphabet in [
        Alphabet::Hex,
        Alphabet::LowerAlphanumeric,
        Alphabet::Base62,
        Alphabet::Base64Url,
    ] {
        let format = KeyFormat::builder("hai")
            .alphabet(alphabet)
            .length(43)
            .build()
            .unwrap();
        let key = format.generate(None).unwrap();
        assert_eq!(key.expose().len(), 47);
        assert_eq!(format.parse(key.expose()), Ok(None));
        assert_ne!(key.expose(), format.generate(None).unwrap().expose());
    }
}

#[test]
fn a_preview_shows_eight_characters_of_the_random_part() {
    let key = polysystems().generate(Some("test")).unwrap();
    let (clear, preview) = (key.expose(), key.preview());
    assert_eq!(
        preview,
        format!("{}...{}", &clear[..12], &clear[clear.len() - 4..])
    );
    assert!(!format!("{key:?}").contains(&clear[12..36]));
}

#[test]
fn one_wrong_character_is_found_without_a_look_up() {
    let format = polysystems();
    let key = format.generate(Some("live")).unwrap();
    for at in "ps_live_".len()..key.expose().len() {
        let mut wrong = key.expose().to_owned().into_bytes();
        wrong[at] = if wrong[at] == b'0' { b'1' } else { b'0' };
        assert_eq!(
            format.parse(std::str::from_utf8(&wrong).unwrap()),
            Err(MalformedKey)
        );
    }
    let other = key.expose().replace("live", "test");
    assert_eq!(
        format.parse(&other),
        Err(MalformedKey),
        "the environment is covered too"
    );
}

#[test]
fn a_format_with_too_little_randomness_cannot_be() {
    let build = |length| {
        KeyFormat::builder("ps")
            .alphabet(Alphabet::LowerAlphanumeric)
            .length(length)
            .build()
    };
    assert_eq!(build(30), Err(KeyFormatError::Length));
    assert!(build(31).is_ok());
    assert_eq!(build(129), Err(KeyFormatError::Length));
    assert_eq!(
        KeyFormat::builder("p s").build(),
        Err(KeyFormatError::Label)
    );
    assert_eq!(
        polysystems().generate(Some("prod")).unwrap_err(),
        GenerateKeyError::UnknownEnvironment
    );
}

#[test]
fn a_format_separates_as_it_likes() {
    for (separator, start) in [
        ("-", "ps-live"),
        (".", "ps.live"),
        ("", "pslive"),
        ("__", "ps__live"),
    ] {
        let format = KeyFormat::builder("ps")
            .environments(["live", "live2"])
            .separator(separator)
            .build()
            .unwrap();
        let pattern = regex::Regex::new(&format!("{}$", format.pattern())).unwrap();
        for environment in ["live", "live2"] {
            let key = format.generate(Some(environment)).unwrap();
            assert_eq!(format.parse(key.expose()), Ok(Some(environment)));
            assert!(key.expose().starts_with(start) && format.claims(key.expose()));
            assert!(pattern.is_match(key.expose()), "{pattern}");
            let other = key.expose().replacen(start, "ps_live", 1);
            assert!(format.parse(&other).is_err(), "another separator");
        }
    }
    for separator in ["_____", "a", ",", " ", "é"] {
        let format = KeyFormat::builder("ps").separator(separator).build();
        assert_eq!(format, Err(KeyFormatError::Separator));
    }
}

#[test]
fn a_scanner_finds_keys_and_nothing_shorter() {
    for format in [
        polysystems(),
        KeyFormat::url_safe("hai").unwrap(),
        KeyFormat::builder("ws").build().unwrap(),
    ] {
        let pattern = regex::Regex::new(&format.pattern()).unwrap();
        for _ in 0..100 {
            let environment = format.starts[0].1.clone();
            let key = format.generate(environment.as_deref()).unwrap();
            let text = format!("curl -H 'x-api-key: {}' https://api", key.expose());
            assert_eq!(pattern.find(&text).unwrap().as_str(), key.expose());
            assert!(!pattern.is_match(&key.expose()[..key.expose().len() - 1]));
            assert!(!pattern.is_match(key.preview()));
        }
    }
    assert_eq!(KeyFormat::live_and_test("ps").unwrap(), polysystems());
}

proptest! {
    #[test]
    fn no_text_makes_it_panic(text in ".{0,60}", body in "ps_(live|test)_[0-9a-z]{30,34}") {
        prop_assert!(polysystems().parse(&text).is_err());
        let _ = polysystems().parse(&body);
    }
}
