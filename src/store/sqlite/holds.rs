//! The stored bytes of a hold: who called what, which budgets count it, and in which windows. They
//! are needed only if nobody settles it. The schema steps `COMPACT_HOLDS` and `BUNDLES` write the
//! same form in SQL.

use std::sync::Arc;

use super::convert::{Failure, micros, moment};
use crate::{
    domain::{
        AccountId, BudgetId,
        books::{Grant, Left},
        budget::Windows,
        money::Money,
        usage::{Call, Expiry, Hold, HoldId, HoldRequest},
    },
    store::StoreError,
};

/// Flags: whether it is charged if nobody settles it, and which optional texts are present.
const CHARGES: u8 = 1;
const KEY: u8 = 2;
const PRINCIPAL: u8 = 4;
const IDEMPOTENCY_KEY: u8 = 8;

/// The caller, as stored.
pub(super) fn principal(call: &Call) -> Option<&str> {
    (*call.principal != *call.account.as_str()).then_some(&*call.principal)
}

/// Replaces the contents of `packed` with what is stored of a hold.
pub(super) fn pack_call(
    packed: &mut Vec<u8>,
    request: &HoldRequest,
    grant: &Grant,
) -> Result<(), Failure> {
    let call = &request.call;
    let key = call.key.as_ref().map(|key| key.as_str());
    let principal = principal(call);
    let idempotency_key = request.idempotency.as_ref().map(|wish| &*wish.key);
    let flag = |flag, is_set| if is_set { flag } else { 0 };
    packed.clear();
    packed.push(
        flag(CHARGES, request.expiry == Expiry::Charge)
            | flag(KEY, key.is_some())
            | flag(PRINCIPAL, principal.is_some())
            | flag(IDEMPOTENCY_KEY, idempotency_key.is_some()),
    );
    let moments = [
        grant.windows.day,
        grant.windows.month,
        micros(call.started_at),
    ];
    for moment in moments {
        packed.extend_from_slice(&moment.to_be_bytes());
    }
    let length = request.budgets.iter().map(packed_length).sum();
    push_length(packed, length)?;
    pack_into(packed, &request.budgets)?;
    let texts = [
        Some(&*call.request_id),
        Some(&*call.route),
        key,
        principal,
        idempotency_key,
    ];
    for text in texts.into_iter().flatten() {
        push_bytes(packed, text.as_bytes())?;
    }
    Ok(())
}

/// Appends the length of `bytes`, then `bytes`.
pub(super) fn push_bytes(packed: &mut Vec<u8>, bytes: &[u8]) -> Result<(), Failure> {
    push_length(packed, bytes.len())?;
    packed.extend_from_slice(bytes);
    Ok(())
}

fn push_length(packed: &mut Vec<u8>, length: usize) -> Result<(), Failure> {
    let length = u32::try_from(length).map_err(|_| StoreError::internal("a text is too long"))?;
    packed.extend_from_slice(&length.to_be_bytes());
    Ok(())
}

/// Reads what [`pack_call`] wrote.
pub(super) fn read(
    id: HoldId,
    account: AccountId,
    amount: Money,
    packed: &[u8],
) -> Result<Hold, Failure> {
    let mut packed = Packed(packed);
    let [flags] = packed.array()?;
    let windows = Windows {
        day: i64::from_be_bytes(packed.array()?),
        month: i64::from_be_bytes(packed.array()?),
    };
    let started_at = moment(i64::from_be_bytes(packed.array()?))?;
    let budgets = unpack(packed.bytes()?)?.into();
    let mut text = |is_there| match is_there {
        true => packed.text().map(Some),
        false => Ok(None),
    };
    let request_id = text(true)?.unwrap_or_default().to_owned();
    let route = Arc::from(text(true)?.unwrap_or_default());
    let key = match text(flags & KEY != 0)? {
        None => None,
        Some(key) => Some(
            key.to_owned()
                .try_into()
                .map_err(|_| Failure::corrupt("a hold's key"))?,
        ),
    };
    let principal = text(flags & PRINCIPAL != 0)?.unwrap_or(account.as_str());
    let principal = Arc::from(principal);
    let idempotency_key = text(flags & IDEMPOTENCY_KEY != 0)?.map(Arc::from);
    Ok(Hold {
        id,
        call: Call {
            request_id: request_id.into(),
            account,
            principal,
            key,
            route,
            started_at,
        },
        budgets,
        amount,
        windows,
        left: Left::default(),
        expiry: match flags & CHARGES {
            0 => Expiry::Release,
            _ => Expiry::Charge,
        },
        idempotency_key,
    })
}

/// The bytes that are still to be read.
pub(super) struct Packed<'a>(pub(super) &'a [u8]);

impl<'a> Packed<'a> {
    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], Failure> {
        let cut = self.0.split_first_chunk();
        let (array, rest) = cut.ok_or_else(|| Failure::corrupt("a hold's call"))?;
        self.0 = rest;
        Ok(*array)
    }

    pub(super) fn bytes(&mut self) -> Result<&'a [u8], Failure> {
        let length = usize::try_from(u32::from_be_bytes(self.array()?));
        let cut = length
            .ok()
            .and_then(|length| self.0.split_at_checked(length));
        let (bytes, rest) = cut.ok_or_else(|| Failure::corrupt("a hold's call"))?;
        self.0 = rest;
        Ok(bytes)
    }

    fn text(&mut self) -> Result<&'a str, Failure> {
        std::str::from_utf8(self.bytes()?).map_err(|_| Failure::corrupt("a hold's call"))
    }
}

/// The names of a hold's budgets, each after a byte with its length: a name has at most 255.
pub(super) fn pack(budgets: &[BudgetId]) -> Result<Vec<u8>, Failure> {
    let mut packed = Vec::new();
    pack_into(&mut packed, budgets)?;
    Ok(packed)
}

fn packed_length(budget: &BudgetId) -> usize {
    budget.as_str().len().saturating_add(1)
}

fn pack_into(packed: &mut Vec<u8>, budgets: &[BudgetId]) -> Result<(), Failure> {
    for budget in budgets {
        let name = budget.as_str().as_bytes();
        let length = u8::try_from(name.len());
        packed.push(length.map_err(|_| StoreError::internal("a budget's name is too long"))?);
        packed.extend_from_slice(name);
    }
    Ok(())
}

/// Reads what [`pack`] wrote.
pub(super) fn unpack(mut packed: &[u8]) -> Result<Vec<BudgetId>, Failure> {
    let corrupt = || Failure::corrupt("a hold's budgets");
    let mut budgets = Vec::new();
    while let Some((length, rest)) = packed.split_first() {
        let (name, rest) = rest
            .split_at_checked(usize::from(*length))
            .ok_or_else(corrupt)?;
        let name = std::str::from_utf8(name).map_err(|_| corrupt())?;
        budgets.push(BudgetId::new(name).map_err(|_| corrupt())?);
        packed = rest;
    }
    Ok(budgets)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use rusqlite::Connection;

    use super::{super::bundles::Bundles, *};
    use crate::domain::{KeyId, clock::Timestamp, usage::Idempotency};

    fn request(is_full: bool) -> HoldRequest {
        let account = AccountId::new("user-ä").unwrap();
        let when = |text: &str| is_full.then(|| Arc::<str>::from(text));
        HoldRequest {
            call: Call {
                request_id: "01J9ZQ".to_owned().into(),
                principal: when("somebody").unwrap_or_else(|| Arc::from(account.as_str())),
                account,
                key: is_full.then(|| KeyId::new("key-1").unwrap()),
                route: Arc::from("POST /ü"),
                started_at: Timestamp::from_microsecond(-5).unwrap(),
            },
            budgets: match is_full {
                true => ["key-1", &"é".repeat(127)]
                    .map(|id| BudgetId::new(id).unwrap())
                    .into(),
                false => [].into(),
            },
            amount: Money::from_nanos(7),
            lifetime: Duration::from_secs(1),
            expiry: if is_full {
                Expiry::Charge
            } else {
                Expiry::Release
            },
            idempotency: when("once").map(|key| Idempotency {
                key,
                fingerprint: [1; 32],
                keep_for: Duration::from_secs(1),
            }),
        }
    }

    fn grant() -> Grant {
        Grant {
            windows: Windows {
                day: 86_400,
                month: -1,
            },
            left: Left::default(),
        }
    }

    fn read_back(packed: &[u8]) -> Result<Hold, Failure> {
        let id = HoldId {
            instance: 9,
            number: 3,
        };
        let account = AccountId::new("user-ä").unwrap();
        read(id, account, Money::from_nanos(7), packed)
    }

    #[test]
    fn what_is_packed_comes_out_again_and_half_of_it_does_not() {
        for is_full in [true, false] {
            let mut packed = b"what was before".to_vec();
            pack_call(&mut packed, &request(is_full), &grant()).unwrap();
            let id = HoldId {
                instance: 9,
                number: 3,
            };
            let hold = Hold::granted(id, request(is_full), grant());
            assert_eq!(read_back(&packed).unwrap(), hold);
            for cut in 0..packed.len() {
                assert!(read_back(&packed[..cut]).is_err(), "{cut}");
            }
        }
    }

    #[test]
    fn holds_of_before_are_read_as_they_were() {
        let connection = Connection::open_in_memory().unwrap();
        let (before, last) = super::super::schema::STEPS.split_at(9);
        for step in before {
            connection.execute_batch(step).unwrap();
        }
        let account = "INSERT INTO account (number, id, deposited, settled, held)
             VALUES (4, 'user-ä', 0, 0, 0)";
        connection.execute(account, []).unwrap();
        for is_full in [true, false] {
            let HoldRequest { call, budgets, .. } = request(is_full);
            let insert =
                "INSERT INTO hold (instance, number, ends, account, amount, day, month, budgets,
                 request_id, key, route, started_at, principal, charges, idempotency_key)
                 VALUES (9, ?, 5, 4, 7, 86400, -1, ?, ?, ?, ?, -5, ?, ?, ?)";
            let row = rusqlite::params![
                is_full,
                pack(&budgets).unwrap(),
                &*call.request_id,
                call.key.as_ref().map(|key| key.as_str()),
                &*call.route,
                principal(&call),
                is_full,
                is_full.then_some("once"),
            ];
            connection.execute(insert, row).unwrap();
        }
        for step in last {
            connection.execute_batch(step).unwrap();
        }
        let mut bundles = Bundles::prepare(&connection).unwrap();
        let mut found = Vec::new();
        for first in bundles.of(9).unwrap() {
            bundles.read(first, |_| true, &mut found).unwrap();
        }
        let granted = |(number, is_full)| {
            let id = HoldId {
                instance: 9,
                number,
            };
            Hold::granted(id, request(is_full), grant())
        };
        assert_eq!(found, [(1, false), (2, true)].map(granted));
        assert!(bundles.end(found[0].id).unwrap());
        assert!(!bundles.end(found[0].id).unwrap());
        let next = "SELECT next_hold FROM log";
        let next: i64 = connection.query_row(next, [], |row| row.get(0)).unwrap();
        assert_eq!(next, 3);
    }

    #[test]
    fn budgets_that_are_packed_come_out_again_and_half_of_them_do_not() {
        let budgets = request(true).budgets;
        let packed = pack(&budgets).unwrap();
        assert_eq!(unpack(&packed).unwrap(), *budgets);
        assert_eq!(unpack(&[]).unwrap(), []);
        assert!(unpack(&packed[..packed.len() - 1]).is_err());
    }
}
