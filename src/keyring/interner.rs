//! Shares what many keys have in common.

use std::sync::{Arc, Mutex};

use hashbrown::HashSet;

use crate::{domain::principal::Standing, sync::lock};

/// How many are shared at a time; a service has a few.
const SHARED_MAX: usize = 1_024;

/// The interned roles and environments of cached keys.
#[derive(Default)]
pub(super) struct StandingInterner(Mutex<HashSet<Arc<Standing>>>);

impl StandingInterner {
    /// The shared copy of an equal value.
    pub(super) fn intern(&self, standing: Standing) -> Arc<Standing> {
        let mut shared = lock(&self.0);
        if let Some(known) = shared.get(&standing) {
            return Arc::clone(known);
        }
        let standing = Arc::new(standing);
        if shared.len() >= SHARED_MAX {
            shared.retain(|known| Arc::strong_count(known) > 1);
        }
        if shared.len() < SHARED_MAX {
            shared.insert(Arc::clone(&standing));
        }
        standing
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::domain::{credential::CredentialKind, principal::Principal};

    fn of_role(interner: &StandingInterner, role: &str) -> Arc<Standing> {
        let mut shared = None;
        let principal = Principal::builder("ann", CredentialKind::ApiKey).role(role);
        let _identity = principal.into_identity(|standing| {
            let standing = interner.intern(standing);
            shared = Some(Arc::clone(&standing));
            standing
        });
        shared.unwrap()
    }

    #[test]
    fn what_is_alike_is_one_and_a_crowd_of_others_is_bounded() {
        let interner = StandingInterner::default();
        let user = of_role(&interner, "user");
        assert!(Arc::ptr_eq(&user, &of_role(&interner, "user")));
        assert!(!Arc::ptr_eq(&user, &of_role(&interner, "admin")));
        let held: Vec<_> = (0..2 * SHARED_MAX)
            .map(|number| of_role(&interner, &number.to_string()))
            .collect();
        assert_eq!(interner.0.lock().unwrap().len(), SHARED_MAX);
        drop(held);
        assert!(Arc::ptr_eq(&user, &of_role(&interner, "user")));
        let late = of_role(&interner, "late");
        assert!(Arc::ptr_eq(&late, &of_role(&interner, "late")));
    }
}
