//! Keys as JSON (RFC 7517).

mod private;

pub(super) use private::Private;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use secrecy::{ExposeSecret, SecretString};
use serde::{
    Deserialize,
    de::{DeserializeSeed, IgnoredAny},
};
use serde_json::{Value, json, value::RawValue};
use zeroize::Zeroizing;

use super::{
    KeyError, TokenAlgorithm, VerifyingKey, algorithm::Implementation, material::PublicNumbers,
};
use crate::token::strict::{Checked, DEPTH_MAX};

/// The members that are used. Others are only checked for their form.
#[derive(Deserialize)]
pub(super) struct Jwk {
    kty: String,
    #[serde(default, rename = "use")]
    usage: Option<String>,
    #[serde(default)]
    key_ops: Option<Vec<String>>,
    #[serde(default)]
    alg: Option<String>,
    #[serde(default)]
    kid: Option<String>,
    #[serde(default)]
    issuer: Option<Value>,
    #[serde(default)]
    crv: Option<String>,
    #[serde(default)]
    n: Option<String>,
    #[serde(default)]
    e: Option<String>,
    #[serde(default)]
    x: Option<String>,
    #[serde(default)]
    y: Option<String>,
    #[serde(default)]
    k: Option<SecretString>,
    #[serde(default)]
    d: Option<SecretString>,
    #[serde(default)]
    p: Option<SecretString>,
    #[serde(default)]
    q: Option<SecretString>,
    #[serde(default)]
    dp: Option<SecretString>,
    #[serde(default)]
    dq: Option<SecretString>,
    #[serde(default)]
    qi: Option<SecretString>,
    #[serde(default)]
    oth: Option<IgnoredAny>,
}

/// The members that nobody may read, whatever they contain.
#[derive(Deserialize)]
struct Secrets {
    k: Option<IgnoredAny>,
    d: Option<IgnoredAny>,
    p: Option<IgnoredAny>,
    q: Option<IgnoredAny>,
    dp: Option<IgnoredAny>,
    dq: Option<IgnoredAny>,
    qi: Option<IgnoredAny>,
    oth: Option<IgnoredAny>,
}

impl Secrets {
    fn are_there(&self) -> bool {
        let all = [
            self.k, self.d, self.p, self.q, self.dp, self.dq, self.qi, self.oth,
        ];
        all.iter().any(Option::is_some)
    }
}

#[derive(Deserialize)]
struct JwkSet<'a> {
    #[serde(borrow)]
    keys: Vec<Member<'a>>,
}

/// One of a set, whatever it is.
#[derive(Deserialize)]
#[serde(transparent)]
pub(super) struct Member<'a>(#[serde(borrow)] &'a RawValue);

impl Member<'_> {
    /// The key, unless it isn't meant for us.
    pub(super) fn verifying_if_meant(&self) -> Result<Option<VerifyingKey>, KeyError> {
        let jwk: Jwk = object(self.0.get())?;
        if jwk.is_for_other_uses() {
            return Ok(None);
        }
        match jwk.verifying() {
            Ok(key) => Ok(Some(key)),
            Err(KeyError::Foreign) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Its name, if that can be read.
    pub(super) fn kid(&self) -> Option<Box<str>> {
        #[derive(Deserialize)]
        struct Named {
            kid: Option<Box<str>>,
        }
        object::<Named>(self.0.get()).ok()?.kid
    }
}

/// No duplicate member at any depth, and nothing after the value.
fn well_formed(json: &[u8]) -> Result<(), KeyError> {
    let mut reader = serde_json::Deserializer::from_slice(json);
    Checked { depth: DEPTH_MAX }
        .deserialize(&mut reader)
        .and_then(|()| reader.end())
        .map_err(|_| KeyError::Malformed)
}

/// What a JSON object contains. `serde` would take an array of the members' values for one, too.
fn object<'a, T: Deserialize<'a>>(json: &'a str) -> Result<T, KeyError> {
    if !json.trim_start().starts_with('{') {
        return Err(KeyError::Malformed);
    }
    serde_json::from_str(json).map_err(|_| KeyError::Malformed)
}

fn bytes(text: Option<&String>) -> Result<Vec<u8>, KeyError> {
    let text = text.ok_or(KeyError::Unreadable)?;
    URL_SAFE_NO_PAD
        .decode(text)
        .map_err(|_| KeyError::Unreadable)
}

impl Jwk {
    pub(super) fn read(json: &[u8]) -> Result<Self, KeyError> {
        well_formed(json)?;
        object(std::str::from_utf8(json).map_err(|_| KeyError::Malformed)?)
    }

    /// The members of a set, none of them read yet.
    pub(super) fn read_set(json: &[u8]) -> Result<Vec<Member<'_>>, KeyError> {
        well_formed(json)?;
        let text = std::str::from_utf8(json).map_err(|_| KeyError::Malformed)?;
        let set: JwkSet<'_> = object(text)?;
        Ok(set.keys)
    }

    /// Whether a key of the set contains a secret or a private part, even one that can't be read
    /// otherwise.
    pub(super) fn is_private_set(json: &[u8]) -> Result<bool, KeyError> {
        let keys = Self::read_set(json)?;
        let mut secrets = keys
            .iter()
            .filter_map(|key| object::<Secrets>(key.0.get()).ok());
        Ok(secrets.any(|secrets| secrets.are_there()))
    }

    /// Whether it declares that it isn't for verifying signatures: RFC 7517 sections 4.2 and 4.3,
    /// where `key_ops` may stand for `use`.
    fn is_for_other_uses(&self) -> bool {
        match (&self.usage, &self.key_ops) {
            (Some(usage), _) => usage != "sig",
            (None, Some(operations)) => !operations.iter().any(|one| one == "verify"),
            (None, None) => false,
        }
    }

    pub(super) fn name(&self) -> Option<&str> {
        self.kid.as_deref()
    }

    /// The key, or why it can't be used: `Foreign` if it isn't meant for us at all.
    pub(super) fn verifying(&self) -> Result<VerifyingKey, KeyError> {
        let algorithm = self.algorithm()?;
        self.check_use("verify")?;
        let key = match algorithm.implementation() {
            Implementation::Secret { .. } => {
                let k = self.k.as_ref().ok_or(KeyError::Unreadable)?;
                let secret = URL_SAFE_NO_PAD
                    .decode(k.expose_secret())
                    .map(Zeroizing::new);
                let secret = secret.map_err(|_| KeyError::Unreadable)?;
                VerifyingKey::from_secret(algorithm, &secret)
            }
            Implementation::Rsa { .. } => {
                let (n, e) = (bytes(self.n.as_ref())?, bytes(self.e.as_ref())?);
                VerifyingKey::public(algorithm, PublicNumbers::rsa(&n, &e))
            }
            Implementation::Ec { length, .. } => {
                let (x, y) = (bytes(self.x.as_ref())?, bytes(self.y.as_ref())?);
                // RFC 7518 section 6.2.1.2: full length, including leading zeros.
                if x.len() != length || y.len() != length {
                    return Err(KeyError::Unreadable);
                }
                let xy = [x, y].concat().into();
                VerifyingKey::public(algorithm, PublicNumbers::Ec { xy })
            }
            Implementation::Ed => {
                let x = bytes(self.x.as_ref())?.into();
                VerifyingKey::public(algorithm, PublicNumbers::Ed { x })
            }
        }?;
        let key = if self.alg.is_none() {
            key.implied()
        } else {
            key
        };
        let key = match &self.issuer {
            Some(issuer) => key.of_issuer(issuer.as_str().unwrap_or_default()),
            None => key,
        };
        match &self.kid {
            Some(kid) => key.kid(kid),
            None => Ok(key),
        }
    }

    fn algorithm(&self) -> Result<TokenAlgorithm, KeyError> {
        if self.usage.as_deref() == Some("enc") {
            return Err(KeyError::Foreign);
        }
        let implied = match (self.kty.as_str(), self.crv.as_deref()) {
            ("oct", _) => TokenAlgorithm::Hs256,
            ("RSA", _) => TokenAlgorithm::Rs256,
            ("EC", Some("P-256")) => TokenAlgorithm::Es256,
            ("EC", Some("P-384")) => TokenAlgorithm::Es384,
            ("OKP", Some("Ed25519")) => TokenAlgorithm::EdDsa,
            _ => return Err(KeyError::Foreign),
        };
        let Some(alg) = &self.alg else {
            return Ok(implied);
        };
        // COSE's names of the same (RFC 9864 section 2.1), which some providers write into their
        // keys; in the header of a token they are none of JOSE's, so it says `ES256` and `ES384`.
        let alg = match alg.as_str() {
            "ESP256" => "ES256",
            "ESP384" => "ES384",
            alg => alg,
        };
        let Some(named) = TokenAlgorithm::of_name(alg) else {
            // Key management, content encryption, and future algorithms: not ours, unless it
            // declares that it signs.
            let signs = self.usage.as_deref() == Some("sig");
            return Err(if signs {
                KeyError::WrongAlgorithm
            } else {
                KeyError::Foreign
            });
        };
        if implied.shares_keys_with(named) {
            Ok(named)
        } else {
            Err(KeyError::WrongAlgorithm)
        }
    }

    /// RFC 7517 section 4.3: no duplicate operations, and consistent with the use.
    fn check_use(&self, wanted: &str) -> Result<(), KeyError> {
        if self.usage.as_deref().is_some_and(|usage| usage != "sig") {
            return Err(KeyError::WrongUse);
        }
        let Some(operations) = &self.key_ops else {
            return Ok(());
        };
        let does = operations.iter().any(|one| one == wanted);
        let signature = |one: &String| matches!(one.as_str(), "sign" | "verify");
        let is_twice = |one: &String| operations.iter().filter(|other| *other == one).count() > 1;
        if does && operations.iter().all(signature) && !operations.iter().any(is_twice) {
            Ok(())
        } else {
            Err(KeyError::WrongUse)
        }
    }
}

/// A public key for publication; `None` for a secret.
pub(super) fn published(key: &VerifyingKey) -> Option<Value> {
    let mut jwk = members(key)?;
    let object = jwk.as_object_mut()?;
    object.insert("use".to_owned(), "sig".into());
    object.insert("alg".to_owned(), key.algorithm().as_str().into());
    if let Some(kid) = key.name() {
        object.insert("kid".to_owned(), kid.into());
    }
    if let Some(issuer) = key.issuer() {
        object.insert("issuer".to_owned(), issuer.into());
    }
    Some(jwk)
}

/// The members that make up a thumbprint (RFC 7638 section 3.2), in order.
pub(super) fn members(key: &VerifyingKey) -> Option<Value> {
    let text = |bytes: &[u8]| URL_SAFE_NO_PAD.encode(bytes);
    Some(match key.numbers()? {
        PublicNumbers::Rsa { n, e } => json!({ "e": text(e), "kty": "RSA", "n": text(n) }),
        PublicNumbers::Ec { xy } => {
            let Implementation::Ec { curve, length, .. } = key.algorithm().implementation() else {
                return None;
            };
            let (x, y) = xy.split_at_checked(length)?;
            json!({ "crv": curve, "kty": "EC", "x": text(x), "y": text(y) })
        }
        PublicNumbers::Ed { x } => json!({ "crv": "Ed25519", "kty": "OKP", "x": text(x) }),
    })
}
