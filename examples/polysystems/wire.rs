//! The wire formats, as the service documents them.

use jiff::{fmt::temporal::Pieces, tz::TimeZone};
use serde::{Deserialize, Deserializer, Serialize, de::Error};
use tollgate::{
    CredentialKind, DenialBody, DenialContext, DenialFormat, RenderDenial,
    books::{Balance, Budget},
    budget::SpendingLimits,
    clock::Timestamp,
    denial::{Denial, DenialKind},
    key::{ApiKey, KeyRecord},
    money::Money,
    network::IpNet,
    store::{Page, PageLimit},
    usage::{Transaction, UsageEntry},
    user::UserRecord,
};

/// The texts of refusals. Those for keys are used for tokens too.
#[derive(Debug)]
pub(crate) struct Texts;

impl RenderDenial for Texts {
    fn render(&self, denial: &Denial, context: &DenialContext<'_>) -> DenialBody {
        let style = DenialFormat::ErrorMessage;
        match denial.kind() {
            kind @ (DenialKind::CredentialMissing
            | DenialKind::CredentialInvalid
            | DenialKind::CredentialAmbiguous
            | DenialKind::CredentialExpired
            | DenialKind::SpendingLimitReached) => {
                let of_key = Denial::new(kind).of_credential(CredentialKind::ApiKey);
                style.render(&of_key, context)
            }
            _ => style.render(denial, context),
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct Register {
    pub(crate) email: String,
    pub(crate) password: String,
    pub(crate) username: String,
}

#[derive(Deserialize)]
pub(crate) struct Login {
    pub(crate) email: String,
    pub(crate) password: String,
}

#[derive(Deserialize)]
pub(crate) struct ChangePassword {
    pub(crate) current_password: String,
    pub(crate) new_password: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct CreateKey {
    pub(crate) name: String,
    #[serde(default, deserialize_with = "end")]
    pub(crate) expires_at: Option<Timestamp>,
    pub(crate) environment: Option<String>,
    pub(crate) roles: Option<Vec<String>>,
    #[serde(default, deserialize_with = "networks")]
    pub(crate) allowed_ips: Vec<IpNet>,
}

/// Addresses and networks, mixed.
fn networks<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<IpNet>, D::Error> {
    let texts = Option::<Vec<String>>::deserialize(deserializer)?.unwrap_or_default();
    let networks = texts.iter().map(|text| tollgate::network::parse(text));
    networks.collect::<Result<_, _>>().map_err(Error::custom)
}

/// Times in the last days of the year 9999, which stand for "never", become the last one that can
/// be represented.
fn end<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Timestamp>, D::Error> {
    let Some(text) = Option::<String>::deserialize(deserializer)? else {
        return Ok(None);
    };
    // RFC 3339, 5.6: an offset is less than a day.
    let is_offset = |pieces: Pieces<'_>| {
        let offset = pieces.to_numeric_offset();
        offset.is_none_or(|offset| offset.seconds().unsigned_abs() < 86_400)
    };
    if !Pieces::parse(&text).is_ok_and(is_offset) {
        return Err(Error::custom("no moment with an offset of less than a day"));
    }
    text.parse::<Timestamp>().map(Some).or_else(|error| {
        let last_day = Timestamp::MAX.to_zoned(TimeZone::UTC).date();
        let is_later = |pieces: &Pieces<'_>| {
            pieces.date() >= last_day && pieces.time().is_some() && pieces.offset().is_some()
        };
        match Pieces::parse(&text).ok().filter(is_later) {
            Some(_) => Ok(Some(Timestamp::MAX)),
            None => Err(Error::custom(error)),
        }
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct RotateKey {
    pub(crate) overlap_seconds: Option<u64>,
}

/// All settings at once, as in a PUT: a missing one is cleared. Here, and wherever a member
/// restricts a key, unknown members are refused: one may be a misspelt restriction.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct SetLimits {
    daily_limit: Option<Money>,
    monthly_limit: Option<Money>,
}

impl From<SetLimits> for SpendingLimits {
    fn from(limits: SetLimits) -> Self {
        Self {
            daily: limits.daily_limit,
            monthly: limits.monthly_limit,
            ..Self::default()
        }
    }
}

#[derive(Deserialize)]
pub(crate) struct TopUp {
    pub(crate) amount: Money,
}

/// `?limit=&cursor=`
#[derive(Deserialize)]
pub(crate) struct PageQuery {
    limit: Option<PageLimit>,
    cursor: Option<u64>,
}

impl PageQuery {
    pub(crate) fn page(&self) -> Page {
        let page = Page::first(self.limit.map_or(50, PageLimit::get));
        match self.cursor {
            Some(cursor) => page.after(cursor),
            None => page,
        }
    }
}

/// Times are given to the second.
fn at(moment: Timestamp) -> Timestamp {
    Timestamp::from_second(moment.as_second()).unwrap_or(moment)
}

#[derive(Serialize)]
pub(crate) struct User {
    id: String,
    email: String,
    username: String,
    role: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    is_email_verified: Option<bool>,
    #[serde(skip_serializing_if = "Option::is_none")]
    created_at: Option<Timestamp>,
}

impl User {
    /// As in the answer to a login.
    pub(crate) fn brief(user: &UserRecord) -> Self {
        Self {
            id: user.id.to_string(),
            email: user.email.clone(),
            username: user.attributes.get("username").cloned().unwrap_or_default(),
            role: user.roles.first().cloned().unwrap_or_default(),
            is_email_verified: None,
            created_at: None,
        }
    }

    pub(crate) fn full(user: &UserRecord) -> Self {
        let created_at = Some(at(user.created_at));
        Self {
            is_email_verified: Some(false),
            created_at,
            ..Self::brief(user)
        }
    }
}

#[derive(Serialize)]
pub(crate) struct LoggedIn {
    pub(crate) token: String,
    pub(crate) user: User,
}

#[derive(Serialize)]
pub(crate) struct Key {
    id: String,
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    key_value: Option<String>,
    key_value_preview: String,
    environment: Option<String>,
    roles: Vec<String>,
    allowed_ips: Vec<String>,
    is_active: bool,
    last_used_at: Option<Timestamp>,
    created_at: Timestamp,
    expires_at: Option<Timestamp>,
}

impl Key {
    /// As in lists: never with the key itself.
    pub(crate) fn listed(record: KeyRecord, now: Timestamp) -> Self {
        Self {
            is_active: record.is_active(now),
            id: record.id.to_string(),
            name: record.name,
            key_value: None,
            key_value_preview: record.preview,
            environment: record.environment,
            roles: record.roles,
            allowed_ips: record.networks.iter().map(ToString::to_string).collect(),
            last_used_at: record.last_used_at.map(at),
            created_at: at(record.created_at),
            expires_at: record.expires_at.map(at),
        }
    }

    /// As shown once, at creation.
    pub(crate) fn created(key: &ApiKey, record: KeyRecord, now: Timestamp) -> Self {
        Self {
            key_value: Some(key.expose().to_owned()),
            ..Self::listed(record, now)
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Limits {
    id: String,
    daily_limit: Option<Money>,
    monthly_limit: Option<Money>,
    daily_spent: Money,
    monthly_spent: Money,
}

impl Limits {
    pub(crate) fn of(id: String, budget: &Budget) -> Self {
        Self {
            id,
            daily_limit: budget.limits.daily,
            monthly_limit: budget.limits.monthly,
            daily_spent: budget.day.settled,
            monthly_spent: budget.month.settled,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct BalanceView {
    balance: Money,
    held: Money,
    currency: &'static str,
}

impl From<Balance> for BalanceView {
    fn from(balance: Balance) -> Self {
        Self {
            balance: balance.available(),
            held: balance.held,
            currency: "USD",
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Items<T> {
    pub(crate) items: Vec<T>,
    pub(crate) next_cursor: Option<u64>,
}

#[derive(Serialize)]
pub(crate) struct TransactionView {
    id: u64,
    #[serde(rename = "type")]
    kind: &'static str,
    amount: Money,
    currency: &'static str,
    reference: String,
    route: Option<String>,
    created_at: Timestamp,
}

impl From<Transaction> for TransactionView {
    fn from(transaction: Transaction) -> Self {
        Self {
            id: transaction.position,
            kind: if transaction.amount.is_negative() {
                "debit"
            } else {
                "credit"
            },
            amount: transaction.amount,
            currency: "USD",
            reference: transaction.reference,
            route: transaction.route,
            created_at: transaction.at,
        }
    }
}

#[derive(Serialize)]
pub(crate) struct Usage {
    request_id: String,
    key_id: Option<String>,
    route: String,
    status: Option<u16>,
    outcome: &'static str,
    held: Money,
    charged: Money,
    input_tokens: Option<u64>,
    output_tokens: Option<u64>,
    latency_ms: u64,
    time: Timestamp,
}

impl From<UsageEntry> for Usage {
    fn from(entry: UsageEntry) -> Self {
        let settlement = entry.settlement;
        Self {
            request_id: entry.call.request_id.to_string(),
            key_id: entry.call.key.map(|key| key.to_string()),
            route: entry.call.route.to_string(),
            status: settlement.status,
            outcome: settlement.outcome.as_str(),
            held: entry.held,
            charged: settlement.charged,
            input_tokens: settlement.input_tokens,
            output_tokens: settlement.output_tokens,
            latency_ms: u64::try_from(settlement.latency.as_millis()).unwrap_or(u64::MAX),
            time: entry.settled_at,
        }
    }
}
