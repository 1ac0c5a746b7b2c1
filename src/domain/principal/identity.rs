//! What is stored per caller. There may be a million in memory, so rarely used fields are in a
//! separate box, and values that many callers have in common are shared.

use std::{
    collections::BTreeMap,
    num::NonZeroI64,
    sync::{Arc, LazyLock},
};

use ipnet::IpNet;

use crate::domain::{
    AccountId, BudgetId, KeyId, SessionId, budget::Budgets, clock::Timestamp,
    credential::CredentialKind, quota::Quotas,
};

/// Holds an identity, either alone or together with the rest of a cached credential, so that both
/// are reached by one pointer.
pub(crate) trait IdentityHolder: Send + Sync {
    fn identity(&self) -> &Identity;
}

/// Who is calling.
#[derive(Clone)]
pub(crate) struct Identity {
    /// `None` if the subject can't name an account; then it is in `rare`.
    subject: Option<AccountId>,
    pub(super) key: Option<KeyId>,
    /// For a key: what its spending and rate are counted under.
    lineage: Option<BudgetId>,
    pub(super) standing: Arc<Standing>,
    rare: Option<Box<Rare>>,
    end: Option<End>,
    pub(super) credential: CredentialKind,
}

/// Fields that few identities have.
#[derive(Clone, Default)]
pub(super) struct Rare {
    subject: Option<Arc<str>>,
    pub(super) session: Option<SessionId>,
    pub(super) resource: Option<Box<str>>,
    pub(super) account: Option<AccountId>,
    pub(super) budgets: Option<Budgets>,
    pub(super) quotas: Option<Quotas>,
    pub(super) attributes: BTreeMap<String, String>,
    pub(super) meter: Option<Arc<str>>,
    pub(super) networks: Box<[IpNet]>,
    pub(super) is_revoked: bool,
    pub(super) is_disabled: bool,
}

/// Fields that many identities have in common.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Standing {
    pub(super) environment: Option<Box<str>>,
    pub(super) roles: Vec<Box<str>>,
}

/// A moment in microseconds, as stores keep it: a third of the size of a `Timestamp`.
#[derive(Clone, Copy)]
struct End(NonZeroI64);

impl End {
    /// Never later than `at`.
    fn of(at: Timestamp) -> Self {
        Self(NonZeroI64::new(at.as_microsecond()).unwrap_or(NonZeroI64::MIN))
    }

    fn timestamp(self) -> Timestamp {
        let beyond = if self.0.is_positive() {
            Timestamp::MAX
        } else {
            Timestamp::MIN
        };
        Timestamp::from_microsecond(self.0.get()).unwrap_or(beyond)
    }
}

impl Identity {
    pub(super) fn new(subject: &str, credential: CredentialKind) -> Self {
        static NOTHING: LazyLock<Arc<Standing>> = LazyLock::new(Arc::default);
        let name: Arc<str> = subject.into();
        let mut identity = Self {
            subject: AccountId::try_from(Arc::clone(&name)).ok(),
            key: None,
            lineage: None,
            standing: Arc::clone(&NOTHING),
            rare: None,
            end: None,
            credential,
        };
        if identity.subject.is_none() {
            identity.rare_mut().subject = Some(name);
        }
        identity
    }

    pub(super) fn subject(&self) -> &Arc<str> {
        static NOBODY: LazyLock<Arc<str>> = LazyLock::new(|| Arc::from(""));
        match &self.subject {
            Some(account) => account.shared(),
            None => self
                .rare()
                .and_then(|rare| rare.subject.as_ref())
                .unwrap_or(&NOBODY),
        }
    }

    pub(super) fn account(&self) -> Option<&AccountId> {
        let other = self.rare().and_then(|rare| rare.account.as_ref());
        other.or(self.subject.as_ref())
    }

    /// The budgets that were set, or else the lineage alone.
    pub(super) fn budgets(&self) -> &[BudgetId] {
        match self.rare().and_then(|rare| rare.budgets.as_ref()) {
            Some(budgets) => budgets,
            None => self.lineage.as_slice(),
        }
    }

    /// The same, in the shared form that holds use.
    pub(super) fn shared_budgets(&self) -> Budgets {
        match self.rare().and_then(|rare| rare.budgets.as_ref()) {
            Some(budgets) => budgets.clone(),
            None => self.lineage.as_slice().into(),
        }
    }

    pub(super) fn lineage(&self) -> Option<&BudgetId> {
        self.lineage.as_ref()
    }

    pub(super) fn set_lineage(&mut self, lineage: BudgetId) {
        self.lineage = Some(lineage);
    }

    /// The networks that the credential may be used from; empty: any.
    pub(crate) fn networks(&self) -> &[IpNet] {
        self.rare().map_or(&[], |rare| &rare.networks)
    }

    /// Whether the credential was revoked.
    pub(crate) fn is_revoked(&self) -> bool {
        self.rare().is_some_and(|rare| rare.is_revoked)
    }

    /// Whether the credential is known, and refused until it is enabled.
    pub(crate) fn is_disabled(&self) -> bool {
        self.rare().is_some_and(|rare| rare.is_disabled)
    }

    pub(crate) fn key(&self) -> Option<&KeyId> {
        self.key.as_ref()
    }

    pub(crate) fn expires_at(&self) -> Option<Timestamp> {
        self.end.map(End::timestamp)
    }

    pub(super) fn set_end(&mut self, at: Timestamp) {
        self.end = Some(End::of(at));
    }

    pub(super) fn meter(&self) -> &str {
        let other = self.rare().and_then(|rare| rare.meter.as_deref());
        let lineage = self.lineage.as_ref().map(BudgetId::as_str);
        other.or(lineage).unwrap_or_else(|| self.subject())
    }

    pub(super) fn rare(&self) -> Option<&Rare> {
        self.rare.as_deref()
    }

    pub(super) fn rare_mut(&mut self) -> &mut Rare {
        self.rare.get_or_insert_default()
    }
}

impl IdentityHolder for Identity {
    fn identity(&self) -> &Identity {
        self
    }
}
