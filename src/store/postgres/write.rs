//! Writes everything that a batch changed with one statement: one array per column, one element per
//! row.

use sqlx::postgres::PgConnection;

use super::{
    batch::UnitOfWork,
    command::Command,
    convert::{Failure, Moment, count},
};
use crate::{
    domain::{
        BudgetId,
        books::Budget,
        budget::Calendar,
        money::Money,
        usage::{Call, Expiry, Settlement, UsageDetails},
    },
    store::{rolling, thresholds},
};

const WRITE: &str = "WITH accounts AS (
         UPDATE account SET deposited = new.deposited, settled = new.settled,
             held = new.held, credit_line = new.credit_line
         FROM unnest($1::bigint[], $2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[])
             AS new (number, deposited, settled, held, credit_line)
         WHERE account.number = new.number
     ), budgets AS (
         INSERT INTO budget AS old (account, id, daily, monthly, total, soft_daily,
             soft_monthly, soft_total, day, month, day_settled, day_held, month_settled, month_held,
             total_settled, total_held, rolling, thresholds)
         SELECT * FROM unnest($6::bigint[], $7::text[], $8::bigint[], $9::bigint[], $10::bigint[],
             $11::bigint[], $12::bigint[], $13::bigint[], $14::bigint[], $15::bigint[],
             $16::bigint[], $17::bigint[], $18::bigint[], $19::bigint[], $20::bigint[],
             $21::bigint[], $53::text[], $58::text[])
         ON CONFLICT (account, id) DO UPDATE SET daily = excluded.daily, monthly = excluded.monthly,
             total = excluded.total, soft_daily = excluded.soft_daily,
             soft_monthly = excluded.soft_monthly, soft_total = excluded.soft_total,
             day = excluded.day, month = excluded.month,
             day_settled = excluded.day_settled, day_held = excluded.day_held,
             month_settled = excluded.month_settled, month_held = excluded.month_held,
             total_settled = excluded.total_settled, total_held = excluded.total_held,
             rolling = excluded.rolling, thresholds = excluded.thresholds
     ), holds AS (
         INSERT INTO hold (instance, number, ends, account, amount, day, month, budgets,
             request_id, principal, key, route, started_at, charges, idempotency_key)
         SELECT $22, number, ends, account, amount, day, month, budgets::json, request_id, principal,
             key, route, started_at, charges, idempotency_key
         FROM unnest($23::bigint[], $24::bigint[], $25::bigint[], $26::bigint[], $27::bigint[],
             $28::bigint[], $29::text[], $30::text[], $31::text[], $32::text[], $33::text[],
             $34::timestamptz[], $35::boolean[], $36::text[])
             AS new (number, ends, account, amount, day, month, budgets, request_id, principal, key,
                 route, started_at, charges, idempotency_key)
     )
     INSERT INTO usage (account, request_id, principal, key, route, started_at, settled_at,
         held, charged, outcome, status, latency_micros, input_tokens, output_tokens, bytes, model,
         cached_tokens, cache_write_tokens, usage_is_missing, details)
     SELECT account, request_id, principal, key, route, started_at, $37, held, charged, outcome,
         status, latency_micros, input_tokens, output_tokens, bytes, model, cached_tokens,
         cache_write_tokens, usage_is_missing, details
     FROM unnest($38::bigint[], $39::text[], $40::text[], $41::text[], $42::text[],
         $43::timestamptz[], $44::bigint[], $45::bigint[], $46::text[], $47::integer[],
         $48::bigint[], $49::bigint[], $50::bigint[], $51::bigint[], $52::text[], $54::bigint[],
         $55::bigint[], $56::boolean[], $57::text[]) WITH ORDINALITY
         AS new (account, request_id, principal, key, route, started_at, held, charged, outcome,
             status, latency_micros, input_tokens, output_tokens, bytes, model, cached_tokens,
             cache_write_tokens, usage_is_missing, details, place)
     ORDER BY place";

/// Writes changed accounts and budgets, new holds and new log rows in one statement.
pub(super) async fn write_back(
    connection: &mut PgConnection,
    unit: &UnitOfWork,
    instance: i64,
    (batch, calendar): (&[Command], &Calendar),
) -> Result<(), Failure> {
    let accounts = AccountColumns::of(unit);
    let budgets = BudgetColumns::of(unit);
    let holds = HoldColumns::of(unit, batch)?;
    let usage = UsageColumns::of(unit, batch, calendar);
    let nothing = accounts.number.is_empty()
        && budgets.account.is_empty()
        && holds.number.is_empty()
        && usage.account.is_empty();
    if nothing {
        return Ok(());
    }
    let query = sqlx::query(WRITE);
    let query = query
        .bind(accounts.number)
        .bind(accounts.deposited)
        .bind(accounts.settled)
        .bind(accounts.held)
        .bind(accounts.credit_line)
        .bind(budgets.account)
        .bind(budgets.id);
    let query = budgets
        .limits
        .into_iter()
        .fold(query, |query, column| query.bind(column));
    let query = budgets
        .counts
        .into_iter()
        .fold(query, |query, column| query.bind(column));
    let query = query
        .bind(instance)
        .bind(holds.number)
        .bind(holds.ends)
        .bind(holds.account)
        .bind(holds.amount)
        .bind(holds.day)
        .bind(holds.month)
        .bind(holds.budgets)
        .bind(holds.calls.request_id)
        .bind(holds.calls.principal)
        .bind(holds.calls.key)
        .bind(holds.calls.route)
        .bind(holds.calls.started_at)
        .bind(holds.charges)
        .bind(holds.idempotency_key)
        .bind(Moment(unit.now))
        .bind(usage.account)
        .bind(usage.calls.request_id)
        .bind(usage.calls.principal)
        .bind(usage.calls.key)
        .bind(usage.calls.route)
        .bind(usage.calls.started_at)
        .bind(usage.held)
        .bind(usage.charged)
        .bind(usage.outcome)
        .bind(usage.status)
        .bind(usage.latency)
        .bind(usage.input_tokens)
        .bind(usage.output_tokens)
        .bind(usage.bytes)
        .bind(usage.model)
        .bind(budgets.rolling)
        .bind(usage.cached_tokens)
        .bind(usage.cache_write_tokens)
        .bind(usage.usage_is_missing)
        .bind(usage.details)
        .bind(budgets.thresholds);
    query.execute(connection).await?;
    Ok(())
}

#[derive(Default)]
struct AccountColumns {
    number: Vec<i64>,
    deposited: Vec<i64>,
    settled: Vec<i64>,
    held: Vec<i64>,
    credit_line: Vec<i64>,
}

impl AccountColumns {
    fn of(unit: &UnitOfWork) -> Self {
        let mut columns = Self::default();
        for account in unit.accounts.values() {
            // Without a row nothing was granted, paid or logged; at most windows have started over.
            if let Some(number) = account.number
                && account.balance != account.stored
            {
                columns.number.push(number);
                columns.deposited.push(account.balance.deposited.nanos());
                columns.settled.push(account.balance.settled.nanos());
                columns.held.push(account.balance.held.nanos());
                let line = account.balance.credit_line;
                columns.credit_line.push(line.nanos());
            }
        }
        columns
    }
}

#[derive(Default)]
struct BudgetColumns<'a> {
    account: Vec<i64>,
    id: Vec<&'a str>,
    /// Daily, monthly, total; then the smallest soft limits.
    limits: [Vec<Option<i64>>; 6],
    /// Windows; then settled and held amounts per day, month and in total.
    counts: [Vec<i64>; 8],
    rolling: Vec<Option<String>>,
    thresholds: Vec<Option<String>>,
}

impl<'a> BudgetColumns<'a> {
    fn of(unit: &'a UnitOfWork) -> Self {
        let mut columns = Self::default();
        for account in unit.accounts.values() {
            let Some(number) = account.number else {
                continue;
            };
            for (id, loaded) in &account.budgets {
                if loaded.stored.as_ref() != Some(&loaded.budget) {
                    columns.push(number, id, &loaded.budget);
                }
            }
        }
        columns
    }

    fn push(&mut self, account: i64, id: &'a BudgetId, budget: &Budget) {
        self.account.push(account);
        self.id.push(id.as_str());
        let (limits, soft) = (&budget.limits, &budget.limits.soft);
        let limits = [
            limits.daily,
            limits.monthly,
            limits.total,
            soft.daily.first(),
            soft.monthly.first(),
            soft.total.first(),
        ];
        for (column, limit) in self.limits.iter_mut().zip(limits) {
            column.push(limit.map(Money::nanos));
        }
        let counts = [
            budget.windows.day,
            budget.windows.month,
            budget.day.settled.nanos(),
            budget.day.held.nanos(),
            budget.month.settled.nanos(),
            budget.month.held.nanos(),
            budget.total.settled.nanos(),
            budget.total.held.nanos(),
        ];
        for (column, count) in self.counts.iter_mut().zip(counts) {
            column.push(count);
        }
        self.rolling.push(rolling::write(budget));
        self.thresholds.push(thresholds::write(budget));
    }
}

/// The columns about a call that holds and usage rows share.
#[derive(Default)]
struct CallColumns<'a> {
    request_id: Vec<&'a str>,
    /// Only where it differs from the account's name; mostly it doesn't.
    principal: Vec<Option<&'a str>>,
    key: Vec<Option<&'a str>>,
    route: Vec<&'a str>,
    started_at: Vec<Moment>,
}

impl<'a> CallColumns<'a> {
    fn push(&mut self, call: &'a Call) {
        self.request_id.push(&call.request_id);
        let is_other = *call.principal != *call.account.as_str();
        self.principal.push(is_other.then_some(&*call.principal));
        self.key.push(call.key.as_ref().map(|key| key.as_str()));
        self.route.push(&call.route);
        self.started_at.push(Moment(call.started_at));
    }
}

#[derive(Default)]
struct HoldColumns<'a> {
    number: Vec<i64>,
    ends: Vec<i64>,
    account: Vec<i64>,
    amount: Vec<i64>,
    day: Vec<i64>,
    month: Vec<i64>,
    budgets: Vec<String>,
    calls: CallColumns<'a>,
    charges: Vec<bool>,
    idempotency_key: Vec<Option<&'a str>>,
}

impl<'a> HoldColumns<'a> {
    fn of(unit: &UnitOfWork, batch: &'a [Command]) -> Result<Self, Failure> {
        let mut columns = Self::default();
        for opened in &unit.opened {
            let Some(Command::Hold { request, .. }) = batch.get(opened.command) else {
                continue;
            };
            columns.number.push(opened.id.number.cast_signed());
            columns.ends.push(opened.ends_micros);
            columns.account.push(opened.account);
            columns.amount.push(request.amount.nanos());
            columns.day.push(opened.windows.day);
            columns.month.push(opened.windows.month);
            let budgets = serde_json::to_string(&*request.budgets);
            columns
                .budgets
                .push(budgets.map_err(|_| Failure::corrupt("names without JSON"))?);
            columns.calls.push(&request.call);
            columns.charges.push(request.expiry == Expiry::Charge);
            let wish = request.idempotency.as_ref();
            columns.idempotency_key.push(wish.map(|wish| &*wish.key));
        }
        Ok(columns)
    }
}

#[derive(Default)]
struct UsageColumns<'a> {
    account: Vec<i64>,
    calls: CallColumns<'a>,
    held: Vec<i64>,
    charged: Vec<i64>,
    outcome: Vec<&'a str>,
    status: Vec<Option<i32>>,
    latency: Vec<i64>,
    input_tokens: Vec<Option<i64>>,
    cached_tokens: Vec<Option<i64>>,
    cache_write_tokens: Vec<Option<i64>>,
    output_tokens: Vec<Option<i64>>,
    bytes: Vec<Option<i64>>,
    model: Vec<Option<&'a str>>,
    usage_is_missing: Vec<Option<bool>>,
    details: Vec<Option<String>>,
}

impl<'a> UsageColumns<'a> {
    fn of(unit: &UnitOfWork, batch: &'a [Command], calendar: &Calendar) -> Self {
        let mut columns = Self::default();
        for logged in &unit.logged {
            let (call, settlement): (&Call, &Settlement) = match batch.get(logged.command) {
                Some(Command::Settle {
                    hold, settlement, ..
                }) => (&hold.call, settlement),
                Some(Command::Record {
                    call, settlement, ..
                }) => (call, settlement),
                Some(Command::Lease { step, .. }) => match step.served.get(logged.row) {
                    Some(served) => (&served.call, &served.settlement),
                    None => continue,
                },
                Some(Command::EndLease { lease, .. }) => (&lease.call, &lease.settlement),
                _ => continue,
            };
            columns.account.push(logged.account);
            columns.calls.push(call);
            columns.held.push(logged.held.nanos());
            columns.charged.push(logged.charged.nanos());
            columns.outcome.push(settlement.outcome.as_str());
            columns.status.push(settlement.status.map(i32::from));
            let latency = i64::try_from(settlement.latency.as_micros());
            columns.latency.push(latency.unwrap_or(i64::MAX));
            columns
                .input_tokens
                .push(settlement.input_tokens.map(count));
            columns
                .cached_tokens
                .push(settlement.cached_tokens.map(count));
            columns
                .cache_write_tokens
                .push(settlement.cache_write_tokens.map(count));
            columns
                .output_tokens
                .push(settlement.output_tokens.map(count));
            columns.bytes.push(settlement.bytes.map(count));
            // PostgreSQL accepts no NUL in a text, and no name may keep a settlement out.
            let model = settlement.model.as_deref();
            columns
                .model
                .push(model.filter(|name| !name.contains('\0')));
            let is_missing = settlement.usage_is_missing.then_some(true);
            columns.usage_is_missing.push(is_missing);
            let windows = logged.windows;
            let windows = windows.and_then(|stamp| calendar.other_windows(call.started_at, stamp));
            let details = settlement.details.as_deref();
            columns
                .details
                .push(UsageDetails::text_of(details, windows));
        }
        columns
    }
}
