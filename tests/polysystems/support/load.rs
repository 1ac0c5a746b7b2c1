//! Paid calls without a pause, from many sides, until the server is gone.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use serde_json::json;
use tokio::task::JoinHandle;

use super::{CHAT_PRICE, Call, Client, Key, PROCESS_PRICE, QUERY_PRICE, WORD_IN, WORD_OUT, within};

const WORKERS: usize = 12;
const REACHED_WITHIN: Duration = Duration::from_secs(60);

/// A call whose answer arrived whole, and what it costs.
#[derive(Clone, Debug)]
pub(crate) struct Paid {
    pub(crate) request_id: String,
    pub(crate) price: i64,
}

#[derive(Debug, Default)]
struct Tally {
    paid: Vec<Paid>,
    cut: usize,
}

#[derive(Debug)]
pub(crate) struct Load {
    workers: Vec<JoinHandle<()>>,
    tally: Arc<Mutex<Tally>>,
}

impl Load {
    /// `name` keeps the request ids of one load apart from those of another.
    pub(crate) async fn start(client: &Client, key: &Key, name: &str) -> Self {
        let model: Arc<str> = key.model(client).await.into();
        let tally = Arc::new(Mutex::new(Tally::default()));
        let workers = (0..WORKERS)
            .map(|worker| {
                let (client, key, model) = (client.clone(), key.clone(), Arc::clone(&model));
                let (name, tally) = (format!("{name}-{worker}"), Arc::clone(&tally));
                tokio::spawn(async move { work(&client, &key, &model, &name, &tally).await })
            })
            .collect();
        Self { workers, tally }
    }

    /// Waits for this many whole answers.
    pub(crate) async fn reaches(&self, count: usize) {
        let reached = async || (self.tally.lock().unwrap().paid.len() >= count).then_some(());
        within(REACHED_WITHIN, "enough answers", reached).await;
    }

    /// Waits for the workers, who end when the server does. The calls that were answered, and how
    /// many answers began but did not end.
    pub(crate) async fn end(self) -> (Vec<Paid>, usize) {
        for worker in self.workers {
            tokio::time::timeout(REACHED_WITHIN, worker)
                .await
                .expect("every call has an end")
                .expect("no worker panics");
        }
        let mut tally = self.tally.lock().unwrap();
        (std::mem::take(&mut tally.paid), tally.cut)
    }
}

async fn work(client: &Client, key: &Key, model: &str, name: &str, tally: &Mutex<Tally>) {
    for number in 0_usize.. {
        let request_id = format!("{name}-{number}");
        let (call, price) = call(client, key, model, number);
        let Ok(response) = call.header("x-request-id", &request_id).begin().await else {
            return;
        };
        let status = response.status();
        let Ok(body) = response.bytes().await else {
            tally.lock().unwrap().cut += 1;
            return;
        };
        assert_eq!(status.as_u16(), 200, "{request_id}: {body:?}");
        tally.lock().unwrap().paid.push(Paid { request_id, price });
    }
}

/// One of each kind in turn.
fn call(client: &Client, key: &Key, model: &str, number: usize) -> (Call, i64) {
    let completion = |stream: bool| {
        let messages = json!([{"role": "user", "content": "one two three"}]);
        let body = json!({"model": model, "stream": stream, "messages": messages});
        client
            .post("/v1/chat/completions")
            .key(&key.value)
            .json(&body)
    };
    let words = 3 * WORD_IN + 3 * WORD_OUT;
    match number % 5 {
        0 => (key.chat(client, "Hello!"), CHAT_PRICE),
        1 => (
            key.paid(client, "/api/omm/process", "Hello!"),
            PROCESS_PRICE,
        ),
        2 => (
            key.paid(client, "/api/yggdrasil/query", "Hello!"),
            QUERY_PRICE,
        ),
        3 => (completion(false), words),
        _ => (completion(true), words),
    }
}
