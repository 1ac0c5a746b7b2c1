//! The names of keys. Every key of an account has the account's name as its hash tag, so that a
//! cluster keeps them in one slot, where one script can change them.

use std::fmt::Write;

use percent_encoding::{AsciiSet, CONTROLS, utf8_percent_encode};
use sha2::{Digest, Sha256};

use crate::domain::AccountId;

/// Characters that a hash tag may not contain, or that could make two names equal.
const ESCAPED: &AsciiSet = &CONTROLS.add(b'{').add(b'}').add(b'%').add(b' ');

/// All names begin with the prefix.
#[derive(Debug)]
pub(super) struct Names {
    prefix: String,
}

/// The keys of one account.
#[derive(Clone, Debug)]
pub(super) struct AccountNames(String);

impl Names {
    pub(super) fn new(prefix: &str) -> Self {
        Self {
            prefix: prefix.to_owned(),
        }
    }

    pub(super) fn account(&self, account: &AccountId) -> AccountNames {
        let escaped = utf8_percent_encode(account.as_str(), ESCAPED);
        AccountNames(format!("{}:{{account:{escaped}}}", self.prefix))
    }

    /// The key by which all accounts check whether a reference is taken.
    pub(super) fn reference(&self, reference: &str) -> String {
        let mut name = format!("{}:{{reference:", self.prefix);
        for byte in Sha256::digest(reference) {
            // Writing to a string never fails.
            let _ = write!(name, "{byte:02x}");
        }
        name.push('}');
        name
    }

    /// The heartbeat counter of each instance.
    pub(super) fn beats(&self) -> String {
        format!("{}:{{instances}}:beats", self.prefix)
    }

    /// Instances that were declared dead and may still have open holds.
    pub(super) fn dead(&self) -> String {
        format!("{}:{{instances}}:dead", self.prefix)
    }

    /// The accounts in which an instance may have open holds.
    pub(super) fn accounts_of(&self, instance: u64) -> String {
        format!("{}:{{instances}}:of:{instance:016x}", self.prefix)
    }
}

impl AccountNames {
    fn name(&self, what: &str) -> String {
        format!("{}:{what}", self.0)
    }

    /// Balance, budgets, and the last position used in the log.
    pub(super) fn books(&self) -> String {
        self.name("books")
    }

    /// Payments by reference.
    pub(super) fn references(&self) -> String {
        self.name("references")
    }

    pub(super) fn payments(&self) -> String {
        self.name("payments")
    }

    /// What was given back of calls, by their positions.
    pub(super) fn refunds(&self) -> String {
        self.name("refunds")
    }

    pub(super) fn charges(&self) -> String {
        self.name("charges")
    }

    pub(super) fn usage(&self) -> String {
        self.name("usage")
    }

    /// The holds that an instance has open.
    pub(super) fn open(&self, instance: u64) -> String {
        self.name(&format!("open:{instance:016x}"))
    }

    /// What an instance may not open any more: numbers of holds, or everything (`*`).
    fn marks(&self, instance: u64) -> String {
        self.name(&format!("marks:{instance:016x}"))
    }

    /// The keys needed to open a hold.
    pub(super) fn to_hold(&self, instance: u64) -> [String; 5] {
        [
            self.books(),
            self.name("once"),
            self.name("once-ends"),
            self.open(instance),
            self.marks(instance),
        ]
    }

    /// The keys needed to end one, also late.
    pub(super) fn to_settle(&self, instance: u64) -> [String; 8] {
        let [books, once, once_ends, open, marks] = self.to_hold(instance);
        [
            books,
            once,
            once_ends,
            open,
            marks,
            self.usage(),
            self.charges(),
            self.name(&format!("late:{instance:016x}")),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_account_has_a_hash_tag_of_its_own() {
        let names = Names::new("shop");
        let books = |account: &str| names.account(&AccountId::new(account).unwrap()).books();
        assert_eq!(books("ann"), "shop:{account:ann}:books");
        assert_eq!(books("a}b{c"), "shop:{account:a%7Db%7Bc}:books");
        assert_ne!(books("a}b"), books("a%7Db"));
        let tag = names.reference("payment-1");
        assert!(tag.starts_with("shop:{reference:") && tag.ends_with('}') && tag.len() == 81);
    }
}
