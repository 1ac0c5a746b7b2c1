//! How a token's claims become its principal.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{
    TokenConfigError, TokenError, TokenErrorKind,
    claims::{Claims, LIST_LENGTH_MAX},
};

const STEPS_MAX: usize = 8;

/// The claim with the scopes by default.
const SCOPE: &str = "scope";
/// More than roles: large providers have hundreds, and issue tokens for many of them.
const SCOPES_MAX: usize = 256;

/// An array of strings, or a string of words separated by spaces. Some issuers write null for none.
fn words(
    found: Option<&Value>,
    most: usize,
    odd: &'static str,
) -> Result<Box<[Box<str>]>, TokenError> {
    let words: Box<[Box<str>]> = match found {
        None | Some(Value::Null) => Box::default(),
        Some(Value::String(words)) => words.split_ascii_whitespace().map(Into::into).collect(),
        Some(Value::Array(items)) => {
            let texts = items.iter().map(|item| item.as_str().map(Into::into));
            let texts = texts.collect::<Option<_>>();
            texts.ok_or(TokenError::malformed(odd))?
        }
        Some(_) => return Err(TokenError::malformed(odd)),
    };
    if words.len() > most {
        return Err(TokenError::malformed(
            "the token has more than 64 roles or 256 scopes",
        ));
    }
    Ok(words)
}

/// The path to a claim: its name, and those of members within it (`realm_access`, `roles`).
#[derive(Clone, Debug)]
pub(super) struct ClaimPath(Box<[Box<str>]>);

impl ClaimPath {
    pub(super) fn new<'a>(steps: impl IntoIterator<Item = &'a str>) -> Self {
        Self(steps.into_iter().map(Into::into).collect())
    }

    pub(super) fn check(&self) -> Result<(), TokenConfigError> {
        let fits = (1..=STEPS_MAX).contains(&self.0.len());
        if fits && self.0.iter().all(|step| !step.is_empty()) {
            Ok(())
        } else {
            Err(TokenConfigError::ClaimPath)
        }
    }

    pub(super) fn root(&self) -> Option<&str> {
        self.0.first().map(AsRef::as_ref)
    }

    fn find<'a>(&self, claims: &'a BTreeMap<String, Value>) -> Option<&'a Value> {
        let (root, rest) = self.0.split_first()?;
        let found = claims.get(root.as_ref())?;
        rest.iter()
            .try_fold(found, |at, step| at.get(step.as_ref()))
    }
}

/// Which claims are read besides those that are always read.
#[derive(Debug, Default)]
pub(super) struct Mapping {
    /// Where the subject is, the first that there is; if empty, `sub`.
    pub(super) subjects: Vec<ClaimPath>,
    pub(super) roles: Option<ClaimPath>,
    pub(super) scopes: Option<ClaimPath>,
    pub(super) attributes: Vec<(Box<str>, ClaimPath)>,
    pub(super) required: Vec<Box<str>>,
}

impl Mapping {
    pub(super) fn check(&self) -> Result<(), TokenConfigError> {
        let paths = self.attributes.iter().map(|(_, path)| path);
        let paths = paths.chain(&self.roles).chain(&self.scopes);
        let mut paths = paths.chain(&self.subjects);
        paths.try_for_each(ClaimPath::check)?;
        if self.required.iter().any(|name| name.is_empty()) {
            return Err(TokenConfigError::ClaimPath);
        }
        Ok(())
    }

    /// The claims that must be kept for this mapping, even those that also have a field of their
    /// own.
    pub(super) fn roots(&self) -> impl Iterator<Item = &str> {
        let paths = self.attributes.iter().map(|(_, path)| path);
        let paths = paths.chain(&self.roles).chain(&self.scopes);
        let roots = paths.chain(&self.subjects).filter_map(ClaimPath::root);
        let scope = self.scopes.is_none().then_some(SCOPE);
        roots
            .chain(scope)
            .chain(self.required.iter().map(AsRef::as_ref))
    }

    /// The subject: a string that isn't empty.
    pub(super) fn subject<'a>(
        &'a self,
        claims: &'a Claims<'_>,
    ) -> Result<Option<&'a str>, TokenError> {
        if self.subjects.is_empty() {
            let subject = claims.subject.as_deref();
            return Ok(subject.filter(|subject| !subject.is_empty()));
        }
        for path in &self.subjects {
            match path.find(&claims.kept) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) if text.is_empty() => {}
                Some(Value::String(text)) => return Ok(Some(text)),
                Some(_) => return Err(TokenError::malformed("the subject is not a string")),
            }
        }
        Ok(None)
    }

    /// An array of strings, or a string of words separated by spaces (RFC 8693 section 4.2).
    pub(super) fn roles(&self, claims: &mut Claims<'_>) -> Result<Box<[Box<str>]>, TokenError> {
        let Some(path) = &self.roles else {
            let roles = claims.roles.take().map(|roles| roles.0).unwrap_or_default();
            return Ok(roles.into_iter().map(Into::into).collect());
        };
        words(
            path.find(&claims.kept),
            LIST_LENGTH_MAX,
            "the roles are neither a list nor words",
        )
    }

    /// What the client may do: `scope` (RFC 8693 section 4.2, RFC 9068 section 2.2.3), or the
    /// configured claim.
    pub(super) fn scopes(&self, claims: &Claims<'_>) -> Result<Box<[Box<str>]>, TokenError> {
        let found = match &self.scopes {
            Some(path) => path.find(&claims.kept),
            None => claims.kept.get(SCOPE),
        };
        words(found, SCOPES_MAX, "the scopes are neither a list nor words")
    }

    pub(super) fn attributes(
        &self,
        claims: &Claims<'_>,
    ) -> Result<BTreeMap<String, String>, TokenError> {
        let mut attributes = BTreeMap::new();
        for (name, path) in &self.attributes {
            match path.find(&claims.kept) {
                None | Some(Value::Null) => {}
                Some(Value::String(text)) => {
                    attributes.insert(name.to_string(), text.clone());
                }
                Some(Value::Bool(value)) => {
                    attributes.insert(name.to_string(), value.to_string());
                }
                // One integer has one text; a fraction may have several, and a long one isn't kept
                // exactly.
                Some(Value::Number(number)) if number.is_u64() || number.is_i64() => {
                    attributes.insert(name.to_string(), number.to_string());
                }
                Some(_) => {
                    let text = "a mapped claim is neither a string, an integer nor a boolean";
                    return Err(TokenError::malformed(text));
                }
            }
        }
        Ok(attributes)
    }

    pub(super) fn check_required(&self, claims: &Claims<'_>) -> Result<(), TokenError> {
        let is_there = |name: &str| claims.kept.get(name).is_some_and(|value| !value.is_null());
        if self.required.iter().all(|name| is_there(name)) {
            Ok(())
        } else {
            Err(TokenError::new(
                TokenErrorKind::MissingClaim,
                "the token lacks a claim that it must have",
            ))
        }
    }
}
