//! Key management from the command line, also while the server runs: it notices changes within two
//! seconds.

use std::time::Duration;

use tollgate::{
    audit::{Act, AuditAction, AuditEvent},
    clock::{SystemClock, Timestamp},
    key::{ApiKey, KeyRecord, SuccessorEnd},
    keyring::{Keyring, NewKey},
    store::{KeyId, Page},
};

use crate::support::{StartError, Stores};

const USAGE: &str = "usage: haagsman [generate-key [--role viewer|operator|admin] [--expires-days N] | list-keys | \
    revoke-key ID | rotate-key ID [--overlap-hours N] [--expires-days N]]";

/// The owner of all generated keys.
const OWNER: &str = "service";
/// How long a rotated key stays valid, so that its user can be given the new one.
const OVERLAP_HOURS: u32 = 24;

/// How the server was called.
pub(crate) enum Command {
    /// Serve.
    Serve,
    /// Print one new key, and store its hash.
    Generate { role: String, ends: Ends },
    /// List the keys.
    List,
    /// End a key.
    Revoke(KeyId),
    /// Print a new key for an old one, which stays valid for a while.
    Rotate {
        key: KeyId,
        overlap: Duration,
        ends: Ends,
    },
}

/// After how many days a key expires, if it does.
pub(crate) struct Ends(Option<u32>);

impl Ends {
    fn at(&self, now: Timestamp) -> Result<Option<Timestamp>, StartError> {
        let Some(days) = self.0 else { return Ok(None) };
        let time = Duration::from_secs(86_400).checked_mul(days);
        let time = time.ok_or("--expires-days: too many")?;
        let end = now.checked_add(time);
        Ok(Some(end.map_err(|_| "--expires-days: too many")?))
    }
}

impl Command {
    /// Reads the command line.
    pub(crate) fn of_process() -> Result<Self, StartError> {
        let mut arguments = std::env::args().skip(1);
        let Some(name) = arguments.next() else {
            return Ok(Self::Serve);
        };
        let mut named = || {
            let id = arguments.next().ok_or(USAGE)?;
            KeyId::new(&id).map_err(|error| StartError::from(format!("{id}: {error}")))
        };
        Ok(match name.as_str() {
            "generate-key" => {
                let [role, days] = options(arguments, ["--role", "--expires-days"])?;
                Self::Generate {
                    role: role.unwrap_or_else(|| "viewer".to_owned()),
                    ends: ends(days)?,
                }
            }
            "list-keys" => {
                let [] = options(arguments, [])?;
                Self::List
            }
            "revoke-key" => {
                let key = named()?;
                let [] = options(arguments, [])?;
                Self::Revoke(key)
            }
            "rotate-key" => {
                let key = named()?;
                let [hours, days] = options(arguments, ["--overlap-hours", "--expires-days"])?;
                let hours = hours.map_or(Ok(OVERLAP_HOURS), |hours| {
                    hours.parse().map_err(|_| "--overlap-hours: no number")
                })?;
                Self::Rotate {
                    key,
                    overlap: Duration::from_secs(u64::from(hours) * 3_600),
                    ends: ends(days)?,
                }
            }
            _ => return Err(USAGE.into()),
        })
    }

    /// Runs the command, unless it is to serve.
    pub(crate) async fn run(self, stores: &Stores, ring: Keyring) -> Result<(), StartError> {
        // The operator may create any number.
        let ring = ring.keys_per_owner_max(u32::MAX);
        let now = SystemClock::shared().now();
        match self {
            Self::Serve => {}
            Self::Generate { role, ends } => {
                stores.must_outlive("generate-key")?;
                let new = NewKey {
                    name: format!("generated for {role}"),
                    roles: vec![role.clone()],
                    expires_at: ends.at(now)?,
                    ..NewKey::default()
                };
                let (key, record) = ring.create(OWNER, new).await?;
                let act = Act::new(AuditAction::KEY_CREATE).actor("generate-key");
                told(stores, act.because(&role), &record.id, now)?;
                shown(&key);
            }
            Self::List => list(&ring, now).await?,
            Self::Revoke(key) => {
                ring.revoke(OWNER, &key).await?;
                let act = Act::new(AuditAction::KEY_REVOKE).actor("revoke-key");
                told(stores, act, &key, now)?;
            }
            Self::Rotate { key, overlap, ends } => {
                // Unless told otherwise, the same lifetime as the old key had.
                let end = match ends.at(now)? {
                    None => SuccessorEnd::SameLife,
                    end => SuccessorEnd::At(end),
                };
                let (new, record) = ring.rotate_to_end(OWNER, &key, overlap, end).await?;
                let act = Act::new(AuditAction::KEY_ROTATE).actor("rotate-key");
                let why = format!("replaces {key}");
                told(stores, act.because(&why), &record.id, now)?;
                shown(&new);
            }
        }
        Ok(())
    }
}

/// The values of optional arguments, each given at most once and in any order.
fn options<const N: usize>(
    mut arguments: impl Iterator<Item = String>,
    names: [&str; N],
) -> Result<[Option<String>; N], StartError> {
    let mut values = names.map(|_| None);
    while let Some(name) = arguments.next() {
        let place = names.iter().position(|known| *known == name);
        let value = place.and_then(|place| values.get_mut(place));
        let value = value.filter(|value| value.is_none()).ok_or(USAGE)?;
        *value = Some(arguments.next().ok_or(USAGE)?);
    }
    Ok(values)
}

fn ends(days: Option<String>) -> Result<Ends, StartError> {
    let days = days.map(|days| match days.parse() {
        Ok(0) | Err(_) => Err("--expires-days: a number of days, at least 1"),
        Ok(days) => Ok(days),
    });
    Ok(Ends(days.transpose()?))
}

fn told(stores: &Stores, act: Act, key: &KeyId, now: Timestamp) -> Result<(), StartError> {
    let event = AuditEvent::new(now, act.target(key.as_str()));
    Ok(stores.audit.append(event)?)
}

fn shown(key: &ApiKey) {
    println!("{}", key.expose());
}

/// One line per key, newest first, separated by tabs.
async fn list(ring: &Keyring, now: Timestamp) -> Result<(), StartError> {
    println!("ID\tKEY\tROLE\tSTATE\tCREATED\tEXPIRES\tLAST USED");
    let mut page = Page::first(1_000);
    loop {
        let part = ring.list(OWNER, page).await?;
        part.items.iter().for_each(|key| print_line(key, now));
        match part.next_cursor {
            Some(cursor) => page = Page::first(1_000).after(cursor),
            None => return Ok(()),
        }
    }
}

fn print_line(key: &KeyRecord, now: Timestamp) {
    let at = |moment: Option<Timestamp>| {
        let whole = moment.and_then(|moment| Timestamp::from_second(moment.as_second()).ok());
        whole.map_or_else(|| "-".to_owned(), |moment| moment.to_string())
    };
    let state = match (key.revoked_at, &key.rotated_to) {
        (Some(_), _) => "revoked",
        (None, _) if !key.is_active(now) => "expired",
        (None, Some(_)) => "rotated",
        (None, None) => "good",
    };
    println!(
        "{}\t{}\t{}\t{state}\t{}\t{}\t{}",
        key.id,
        key.preview,
        key.roles.join(","),
        at(Some(key.created_at)),
        at(key.expires_at),
        at(key.last_used_at),
    );
}
