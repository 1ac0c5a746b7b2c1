//! The data for creating a user.

use std::{collections::BTreeMap, fmt};

use secrecy::{ExposeSecret, SecretString};

use super::{LoginError, LoginErrorKind, passwords::PASSWORD_LENGTH_MAX};
use crate::domain::user::short_name;

/// RFC 5321 section 4.5.3.1.3, less the angle brackets.
const EMAIL_LENGTH_MAX: usize = 254;

/// A user to be created. The password is redacted in `Debug` and wiped from memory when dropped.
///
/// ```
/// use tollgate::login::NewUser;
///
/// let user = NewUser::new("ann@example.org", "correct horse").role("user").name("username", "ann");
/// assert!(!format!("{user:?}").contains("horse"));
/// ```
#[derive(Clone)]
#[must_use]
pub struct NewUser {
    pub(super) email: String,
    password: SecretString,
    pub(super) roles: Vec<String>,
    pub(super) attributes: BTreeMap<String, String>,
    /// The attribute that was to be a name, and isn't one.
    pub(super) misnamed: Option<Box<str>>,
}

impl NewUser {
    /// A user with no roles and no attributes.
    pub fn new(email: &str, password: &str) -> Self {
        Self {
            email: email.to_owned(),
            password: SecretString::from(password),
            roles: Vec::new(),
            attributes: BTreeMap::new(),
            misnamed: None,
        }
    }

    /// Adds a role.
    pub fn role(mut self, role: &str) -> Self {
        self.roles.push(role.to_owned());
        self
    }

    /// Adds an attribute that the application stores for the user.
    pub fn attribute(mut self, name: &str, value: &str) -> Self {
        self.attributes.insert(name.to_owned(), value.to_owned());
        self
    }

    /// Adds an attribute that is a name, as its user wrote it: without the blanks around it, and
    /// refused at registration unless it is a [`short_name`].
    pub fn name(mut self, attribute: &str, name: &str) -> Self {
        match short_name(name) {
            Some(name) => self.attribute(attribute, name),
            None => {
                self.misnamed = Some(attribute.into());
                self
            }
        }
    }

    pub(super) fn password(&self) -> &str {
        self.password.expose_secret()
    }
}

impl fmt::Debug for NewUser {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewUser")
            .field("roles", &self.roles)
            .finish_non_exhaustive()
    }
}

/// Exactly one `@` with text on both sides, no blanks, no control characters, at most 254 bytes.
///
/// Only sending a mail can show whether the address works; a pattern can't.
pub(super) fn check_email(email: &str) -> Result<(), LoginError> {
    let email = email.trim();
    let odd = |character: char| character.is_whitespace() || character.is_control();
    let shaped = email.len() <= EMAIL_LENGTH_MAX
        && !email.contains(odd)
        && email.split_once('@').is_some_and(|(local, domain)| {
            !local.is_empty() && !domain.is_empty() && !domain.contains('@')
        });
    if shaped {
        Ok(())
    } else {
        Err(LoginError::new(LoginErrorKind::InvalidEmail))
    }
}

/// Only length matters (NIST SP 800-63B section 3.1.1.2): a minimum in characters, a maximum in
/// bytes.
pub(super) fn check_password(password: &str, length_min: usize) -> Result<(), LoginError> {
    let weak = |text| Err(LoginError::new(LoginErrorKind::WeakPassword(text)));
    if password.len() > PASSWORD_LENGTH_MAX {
        weak("The password is too long.")
    } else if password.chars().count() < length_min {
        weak("The password is too short.")
    } else {
        Ok(())
    }
}
