//! The four small services behind the gate. None of them knows keys, limits or prices.

use std::{pin::Pin, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tollgate::{
    Charge,
    denial::{Denial, DenialKind},
    money::Money,
    store::{AccountId, Ledger, StoreError},
    tonic::{charge, principal},
    usage::{Credit, is_reference},
};
use tonic::{Request, Response, Status};

use crate::pb::{
    bank::{
        Balance, GetBalanceRequest, TopUpRequest, account_server::Account, admin_server::Admin,
    },
    demo::{
        CompleteRequest, CompleteResponse, SayRequest, SayResponse, completion_server::Completion,
        echo_server::Echo,
    },
};

/// The most words in one stream: what the hold is for.
pub(crate) const WORDS_MAX: u64 = 100;
/// The pause between two words of a stream.
const PACE: Duration = Duration::from_millis(20);

type Words<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// All four services.
#[derive(Clone)]
pub(crate) struct Services {
    ledger: Arc<dyn Ledger>,
}

impl Services {
    pub(crate) fn new(ledger: Arc<dyn Ledger>) -> Self {
        Self { ledger }
    }
}

/// One word after another, at the pace of speech.
fn spoken(text: &str) -> impl Stream<Item = String> + Send + use<> {
    let words: Vec<String> = text.split_whitespace().map(str::to_owned).collect();
    stream::iter(words).then(async |word| {
        tokio::time::sleep(PACE).await;
        word
    })
}

#[tonic::async_trait]
impl Echo for Services {
    type SayWordsStream = Words<SayResponse>;

    async fn say(&self, request: Request<SayRequest>) -> Result<Response<SayResponse>, Status> {
        let caller = principal(&request)?.subject().to_owned();
        let message = request.into_inner().message;
        Ok(Response::new(SayResponse { message, caller }))
    }

    async fn say_words(
        &self,
        request: Request<SayRequest>,
    ) -> Result<Response<Self::SayWordsStream>, Status> {
        let caller = principal(&request)?.subject().to_owned();
        let words = spoken(&request.get_ref().message).map(move |message| {
            let caller = caller.clone();
            Ok(SayResponse { message, caller })
        });
        Ok(Response::new(Box::pin(words)))
    }
}

#[tonic::async_trait]
impl Completion for Services {
    type CompleteStreamStream = Words<CompleteResponse>;

    async fn complete(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<CompleteResponse>, Status> {
        let text = request.into_inner().prompt;
        if text == "!fail" {
            return Err(Denial::new(DenialKind::Internal).into());
        }
        Ok(Response::new(CompleteResponse { text }))
    }

    async fn complete_stream(
        &self,
        request: Request<CompleteRequest>,
    ) -> Result<Response<Self::CompleteStreamStream>, Status> {
        let charge: Charge = charge(&request)?.clone();
        charge.add_output_tokens(0);
        let limit = usize::try_from(WORDS_MAX).unwrap_or(usize::MAX);
        let words = spoken(&request.get_ref().prompt)
            .take(limit)
            .map(move |text| {
                charge.add_output_tokens(1);
                Ok(CompleteResponse { text })
            });
        Ok(Response::new(Box::pin(words)))
    }
}

#[tonic::async_trait]
impl Account for Services {
    async fn get_balance(
        &self,
        request: Request<GetBalanceRequest>,
    ) -> Result<Response<Balance>, Status> {
        let account = principal(&request)?.require_account()?;
        let balance = self.ledger.balance(account).await;
        told(balance)
    }
}

#[tonic::async_trait]
impl Admin for Services {
    async fn top_up(&self, request: Request<TopUpRequest>) -> Result<Response<Balance>, Status> {
        let payment = request.into_inner();
        let account =
            AccountId::new(&payment.account).map_err(|error| unfit(format!("account: {error}")))?;
        if !is_reference(&payment.reference) {
            return Err(unfit("reference: 1 to 255 bytes".into()));
        }
        let credit = Credit {
            account,
            amount: Money::from_nanos(payment.amount_nanos),
            reference: payment.reference,
        };
        told(self.ledger.credit(credit).await)
    }
}

/// The status for an invalid argument.
fn unfit(why: String) -> Status {
    Denial::new(DenialKind::Unprocessable)
        .with_message(why)
        .into()
}

fn told(
    balance: Result<tollgate::books::Balance, StoreError>,
) -> Result<Response<Balance>, Status> {
    let balance = balance.map_err(Denial::from)?;
    Ok(Response::new(Balance {
        available_nanos: balance.available().nanos(),
        held_nanos: balance.held.nanos(),
    }))
}
