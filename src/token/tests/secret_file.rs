//! The file that keeps the signing secret.

use std::{fs, os::unix::fs::PermissionsExt};

use super::*;

fn mode(path: &std::path::Path) -> u32 {
    fs::metadata(path).unwrap().permissions().mode() & 0o777
}

#[test]
fn is_made_once_closed_to_others_and_read_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("new/deeper/secret");
    let made = SigningSecret::load_or_create(&path).unwrap();
    assert_eq!(made.expose().len(), 64);
    assert_eq!(mode(&path), 0o600);
    assert_eq!(
        SigningSecret::load_or_create(&path).unwrap().expose(),
        made.expose()
    );
    assert_eq!(
        fs::read_dir(path.parent().unwrap()).unwrap().count(),
        1,
        "no draft is left"
    );
    let other = SigningSecret::load_or_create(folder.path().join("other")).unwrap();
    assert_ne!(other.expose(), made.expose());
}

#[test]
fn racing_processes_get_the_same_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    let secrets: Vec<_> = std::thread::scope(|scope| {
        let racers: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| SigningSecret::load_or_create(&path).unwrap()))
            .collect();
        racers
            .into_iter()
            .map(|racer| racer.join().unwrap())
            .collect()
    });
    assert!(
        secrets
            .iter()
            .all(|secret| secret.expose() == secrets[0].expose())
    );
}

#[test]
fn a_loose_mode_is_tightened() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    fs::write(&path, [b"  ", CANARY, b"\r\n"].concat()).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).unwrap();
    assert_eq!(
        SigningSecret::load_or_create(&path).unwrap().expose(),
        CANARY
    );
    assert_eq!(mode(&path), 0o600);
}

#[test]
fn what_is_no_secret_is_refused_and_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("secret");
    for content in [
        Vec::new(),
        b"CANARY-short".to_vec(),
        vec![b'x'; 4_097],
        vec![b'x'; 1 << 20],
    ] {
        fs::write(&path, &content).unwrap();
        let error = SigningSecret::load_or_create(&path).unwrap_err();
        assert!(
            matches!(error, SigningSecretError::Content { .. }),
            "{error}"
        );
        assert!(!format!("{error:?} {error}").contains("CANARY"));
        assert_eq!(fs::read(&path).unwrap(), content);
    }
    let error = SigningSecret::load_or_create(folder.path()).unwrap_err();
    assert!(
        matches!(error, SigningSecretError::NotAFile { .. }),
        "{error}"
    );
    let error = SigningSecret::load_or_create(path.join("below-a-file")).unwrap_err();
    assert!(matches!(error, SigningSecretError::File { .. }), "{error}");
    assert!(error.to_string().contains("below-a-file"));
}
