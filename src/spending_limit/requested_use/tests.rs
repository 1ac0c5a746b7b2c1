use http::Request;
use serde_json::json;

use super::{RequestShape::*, *};
use crate::domain::denial::DenialKind;

fn read_at(shape: RequestShape, path: &str, body: &[u8]) -> Result<RequestedUse, String> {
    let request = Request::post(path).body(()).unwrap();
    let read = shape.read(&RequestHead::of(&request), body);
    read.map_err(|denial| {
        assert_eq!(denial.kind().as_str(), "malformed");
        denial.message().unwrap().to_owned()
    })
}

fn read(shape: RequestShape, body: &str) -> Result<RequestedUse, String> {
    read_at(shape, "/v1/any", body.as_bytes())
}

fn asked(model: Option<&str>, output_max: Option<u64>, choices: u64) -> RequestedUse {
    RequestedUse {
        model: model.map(Arc::from),
        output_max,
        choices,
    }
}

#[track_caller]
fn is_read(shape: RequestShape, body: &serde_json::Value, wanted: (Option<u64>, u64)) {
    let (output_max, choices) = wanted;
    let wanted = asked(Some("m"), output_max, choices);
    assert_eq!(read(shape, &body.to_string()), Ok(wanted), "{body}");
}

#[test]
fn each_provider_s_request_says_what_it_asks_for() {
    let messages =
        json!([{"role": "user", "content": "hi", "max_tokens": 9, "n": 9, "model": "x"}]);
    for (more, wanted) in [
        (json!({}), (None, 1)),
        (json!({"max_tokens": 64_000, "n": 8}), (Some(64_000), 8)),
        (json!({"max_completion_tokens": 5}), (Some(5), 1)),
        (
            json!({"max_tokens": 7, "max_completion_tokens": 5, "n": null}),
            (Some(7), 1),
        ),
        (
            json!({"max_tokens": 5, "max_completion_tokens": 7, "best_of": 3, "n": 2}),
            (Some(7), 3),
        ),
        (
            json!({"max_tokens": null, "max_output_tokens": 5, "n": 0}),
            (None, 1),
        ),
        (json!({"max_tokens": 0, "n_predict": 0}), (None, 1)),
        (json!({"max_tokens": 5, "n_predict": 9}), (Some(9), 1)),
        (json!({"models": null, "fallbacks": null}), (None, 1)),
        (
            json!({"max_tokens": u64::MAX, "n": u64::MAX}),
            (Some(u64::MAX), u64::MAX),
        ),
    ] {
        let mut body = json!({"model": "m", "messages": messages, "stream": true});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        is_read(OpenAiChat, &body, wanted);
    }
    for (more, wanted) in [
        (json!({"prompt": "hi"}), (Some(5), 1)),
        (
            json!({"prompt": ["hi", "ho"], "n": 2, "best_of": 3}),
            (Some(5), 6),
        ),
        (json!({"prompt": [1, 2, 3], "n": 2}), (Some(5), 2)),
        (json!({"prompt": [[1, 2], [3], []]}), (Some(5), 3)),
        (json!({"prompt": []}), (Some(5), 1)),
        (json!({"prompt": vec![1; 100_000]}), (Some(5), 1)),
        (json!({"prompt": vec!["a"; 100_000]}), (Some(5), 100_000)),
        (json!({"prompt": null}), (Some(5), 1)),
        (
            json!({"prompt": ["a", "b"], "n": u64::MAX}),
            (Some(5), u64::MAX),
        ),
    ] {
        let mut body = json!({"model": "m", "max_tokens": 5});
        body.as_object_mut()
            .unwrap()
            .extend(more.as_object().unwrap().clone());
        is_read(OpenAiCompletions, &body, wanted);
    }
    let body =
        json!({"model": "m", "input": "hi", "max_output_tokens": 5, "max_tokens": 9, "n": 9});
    is_read(OpenAiResponses, &body, (Some(5), 1));
    is_read(
        OpenAiEmbeddings,
        &json!({"model": "m", "input": ["a", "b"]}),
        (Some(0), 1),
    );
    let body = json!({"model": "m", "messages": messages, "max_tokens": 5, "n": 9});
    is_read(AnthropicMessages, &body, (Some(5), 1));
}

#[test]
fn a_model_that_is_not_named_is_not_known() {
    for body in [r#"{}"#, r#"{"model":null}"#] {
        assert_eq!(read(OpenAiChat, body), Ok(asked(None, None, 1)));
    }
    assert_eq!(
        read(OpenAiChat, r#"{"mod\u0065l":"m\u0041"}"#),
        Ok(asked(Some("mA"), None, 1))
    );
}

#[test]
fn gemini_names_its_model_in_the_path_and_its_bounds_further_down() {
    let path = "/v1beta/models/gemini-2.5-pro:streamGenerateContent";
    let read =
        |path: &str, body: serde_json::Value| read_at(Gemini, path, body.to_string().as_bytes());
    let pro = |output_max, choices| Ok(asked(Some("gemini-2.5-pro"), output_max, choices));
    let camel = json!({"maxOutputTokens": 5, "candidateCount": 2, "temperature": 0.5});
    let snake = json!({"max_output_tokens": 7});
    assert_eq!(
        read(path, json!({"generationConfig": camel})),
        pro(Some(5), 2)
    );
    assert_eq!(
        read(path, json!({"generation_config": snake})),
        pro(Some(7), 1)
    );
    let both = json!({"generationConfig": camel, "generation_config": snake});
    assert_eq!(read(path, both), pro(Some(7), 2));
    let elsewhere = json!({"maxOutputTokens": 5, "contents": [], "generationConfig": null});
    assert_eq!(read(path, elsewhere), pro(None, 1));
    assert_eq!(
        read(path, json!({"model": "models/gemini-2.5-pro"})),
        pro(None, 1)
    );
    let other = read(path, json!({"model": "gemini-2.5-flash"}));
    assert_eq!(
        other,
        Err("model: must be the one that the path names".into())
    );
    let of_zero = json!({"generationConfig": {"maxOutputTokens": 0}, "generation_config": snake});
    let beside = "maxOutputTokens: must not be 0 beside another bound";
    assert_eq!(read(path, of_zero), Err(beside.into()));
    for (config, why) in [
        (json!(5), "generationConfig: must be an object"),
        (json!([]), "generationConfig: must be an object"),
        (
            json!({"maxOutputTokens": "5"}),
            "maxOutputTokens: must be a whole number that is not negative",
        ),
        (
            json!({"maxoutputtokens": 5}),
            "maxOutputTokens: must be spelled so",
        ),
    ] {
        assert_eq!(
            read(path, json!({"generationConfig": config})),
            Err(why.into())
        );
    }
}

#[test]
fn gemini_s_path_alone_chooses_the_model() {
    let flash = json!({"model": "models/flash"}).to_string();
    let read = |path: &str, body: &str| read_at(Gemini, path, body.as_bytes());
    for last in [
        "pro:generateContent",
        "pro%3AgenerateContent",
        "p%72o%3astreamGenerateContent",
    ] {
        let path = format!("/v1beta/models/{last}");
        let pro = Ok(asked(Some("pro"), None, 1));
        assert_eq!(read(&path, "{}"), pro, "{last}");
        let other = Err("model: must be the one that the path names".to_owned());
        assert_eq!(read(&path, &flash), other, "{last}");
    }
    let spaced = read("/m/my%20model:generateContent", "{}");
    assert_eq!(spaced, Ok(asked(Some("my model"), None, 1)));
    let long = format!("/m/{}:generateContent", "m".repeat(257));
    for path in [
        "/generate",
        "/v1beta/models/pro",
        "/v1beta/models/pro:generateContent/",
        "/v1beta/models/:generateContent",
        "/v1beta/models/pro:countTokens",
        "/v1beta/models/pro:generatecontent",
        "/v1beta/models/pro%253AgenerateContent",
        "/v1beta/models/p%2572o:generateContent",
        "/v1beta/models/models%2Fpro:generateContent",
        "/v1beta/models/flash:pro:generateContent",
        "/v1beta/models/%ff:generateContent",
        &long,
    ] {
        let must = "The path must end in a model and :generateContent or :streamGenerateContent";
        assert_eq!(read(path, &flash), Err(must.into()), "{path}");
    }
}

#[test]
fn a_bound_of_0_beside_another_is_refused() {
    for (name, more) in [
        (
            "max_tokens",
            json!({"max_tokens": 0, "max_completion_tokens": 64_000}),
        ),
        (
            "max_completion_tokens",
            json!({"max_tokens": 1, "max_completion_tokens": 0}),
        ),
        ("n_predict", json!({"n_predict": 0, "max_tokens": 7})),
    ] {
        let must = format!("{name}: must not be 0 beside another bound");
        assert_eq!(read(OpenAiChat, &more.to_string()), Err(must), "{more}");
    }
}

#[test]
fn what_makes_other_models_answer_is_refused() {
    for shape in [
        OpenAiChat,
        OpenAiCompletions,
        OpenAiResponses,
        OpenAiEmbeddings,
    ] {
        for (name, value) in [
            ("models", json!(["small", "large"])),
            ("models", json!([])),
            ("fallbacks", json!([{"small": ["large"]}])),
            ("fallbacks", json!("large")),
        ] {
            let body = json!({"model": "small", name: value}).to_string();
            let must = format!("{name}: must not be there");
            assert_eq!(read(shape, &body), Err(must), "{shape:?} {body}");
        }
    }
}

#[test]
fn only_json_in_utf_8_is_read() {
    let read = |types: &[&'static str]| {
        let mut request = Request::post("/v1/any");
        for media_type in types {
            request = request.header("content-type", *media_type);
        }
        let request = request.body(()).unwrap();
        let read = OpenAiChat.read(&RequestHead::of(&request), b"{}");
        read.map_err(|denial| (denial.kind(), denial.message().unwrap().to_owned()))
    };
    assert!(read(&[]).is_ok());
    for media_type in [
        "application/json",
        "Application/JSON",
        "application/vnd.api+json",
        "application/json; charset=utf-8",
        "application/json ;charset=\"UTF-8\"; v=1",
        "application/json;charset=utf8;",
    ] {
        assert!(read(&[media_type]).is_ok(), "{media_type}");
    }
    let must = "The content-type must be application/json, in UTF-8".to_owned();
    let refused = Err((DenialKind::Malformed, must));
    for media_type in [
        "",
        "json",
        "text/plain",
        "text/json",
        "application/x-www-form-urlencoded",
        "multipart/form-data; boundary=json",
        "application/jsonp",
        "application/json, text/plain",
        "text/plain, application/x+json",
        "application/json; charset=utf-16",
        "application/json; CharSet = \"utf-7\"",
        "application/json; charset=utf-8; charset=utf-16",
        "application/json; charset*=utf-16''x",
        "application/json; charset",
    ] {
        assert_eq!(read(&[media_type]), refused, "{media_type}");
    }
    assert_eq!(read(&["application/json", "application/json"]), refused);
}

/// Whatever another parser might read as more than this one does.
#[test]
fn a_shape_reads_no_encoded_body_whoever_calls_it() {
    let request = Request::post("/").header("content-encoding", "gzip");
    let request = request.body(()).unwrap();
    let denial = OpenAiChat
        .read(&RequestHead::of(&request), b"{}")
        .unwrap_err();
    assert_eq!(denial.message(), Some("The body must not be compressed"));
}

#[test]
fn what_parsers_read_differently_is_refused() {
    let whole = "max_tokens: must be a whole number that is not negative";
    for value in [
        "-1",
        "-0",
        "1.0",
        "0.5",
        "1e3",
        "1E3",
        "\"64000\"",
        "true",
        "[1]",
        "{}",
        "18446744073709551616",
        "1e400",
    ] {
        let body = format!(r#"{{"model":"m","max_tokens":{value}}}"#);
        assert_eq!(read(OpenAiChat, &body), Err(whole.into()), "{body}");
    }
}

#[test]
fn what_is_there_twice_or_in_another_case_is_refused() {
    for (body, why) in [
        (
            r#"{"max_tokens":1,"max_tokens":2}"#,
            "max_tokens: must not be there twice",
        ),
        (
            r#"{"max_tokens":1,"max\u005ftokens":2}"#,
            "max_tokens: must not be there twice",
        ),
        (r#"{"n":1,"n":1}"#, "n: must not be there twice"),
        (
            r#"{"model":"a","model":"b"}"#,
            "model: must not be there twice",
        ),
        (
            r#"{"max_tokens":1,"MAX_tokens":2}"#,
            "max_tokens: must be spelled so",
        ),
        (r#"{"Model":"a"}"#, "model: must be spelled so"),
        (r#"{"N":8}"#, "n: must be spelled so"),
        (
            "{\"max_to\u{212a}en\u{17f}\":8}",
            "max_tokens: must be spelled so",
        ),
        (r#"{"model":1}"#, "model: must be a string"),
        (r#"{"model":["a"]}"#, "model: must be a string"),
        (r#"{"model":"\ud800"}"#, "model: must be a string"),
    ] {
        assert_eq!(read(OpenAiChat, body), Err(why.into()), "{body}");
    }
}

#[test]
fn what_is_no_json_object_is_refused() {
    for (body, why) in [
        (r#"[1]"#, "The body must be a JSON object"),
        (r#"["model"]"#, "The body must be a JSON object"),
        ("null", "The body must be a JSON object"),
        ("", "The body is not valid JSON"),
        ("{", "The body is not valid JSON"),
        (r#"{"n":8"#, "The body is not valid JSON"),
        (r#"{"n":1}{"n":8}"#, "The body is not valid JSON"),
        (r#"{"n":01}"#, "The body is not valid JSON"),
        (r#"{"n":+1}"#, "The body is not valid JSON"),
        (r#"{"n":NaN}"#, "The body is not valid JSON"),
        (r#"{"n":1,}"#, "The body is not valid JSON"),
        (r#"{'n':1}"#, "The body is not valid JSON"),
        ("\u{feff}{}", "The body is not valid JSON"),
        ("model=m&max_tokens=8", "The body is not valid JSON"),
    ] {
        assert_eq!(read(OpenAiChat, body), Err(why.into()), "{body}");
    }
    let prompts = "prompt: must be a text, a list of tokens, or a list of these";
    for body in [
        r#"{"prompt":["a",1]}"#,
        r#"{"prompt":[[1],1]}"#,
        r#"{"prompt":[1,"a"]}"#,
        r#"{"prompt":[null]}"#,
        r#"{"prompt":[{}]}"#,
        r#"{"prompt":{"a":["b"]}}"#,
        r#"{"prompt":1}"#,
    ] {
        assert_eq!(read(OpenAiCompletions, body), Err(prompts.into()), "{body}");
    }
    let long = json!({"model": "m".repeat(257)}).to_string();
    assert_eq!(
        read(OpenAiChat, &long),
        Err("model: must have at most 256 bytes".into())
    );
    assert!(read(OpenAiChat, &json!({"model": "m".repeat(256)}).to_string()).is_ok());
    let spelled = |letters| format!(r#"{{"model":"{}"}}"#, "\\u006d".repeat(letters));
    assert!(read(OpenAiChat, &spelled(256)).is_ok() && read(OpenAiChat, &spelled(257)).is_err());
    for bytes in [
        &b"{\"a\":\"\xff\"}"[..],
        b"{\"\xff\":1}",
        b"\0{\0}",
        b"{\"n\":1}\0",
    ] {
        let read = read_at(OpenAiChat, "/", bytes);
        assert_eq!(read, Err("The body is not valid JSON".into()), "{bytes:?}");
    }
}

#[test]
fn a_body_of_any_depth_is_read() {
    let deep = format!(
        r#"{{"a":{}{},"n":2}}"#,
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert_eq!(read(OpenAiChat, &deep), Ok(asked(None, None, 2)));
}

/// serde_json makes an object of the text in such a member, and a handler reads that.
#[test]
fn nothing_hides_in_a_text() {
    let hidden = r#"{"$serde_json::private::RawValue":"{\"n\":8}"}"#;
    let spelled = hidden.replace('$', "\\u0024");
    let reserved = "The body has a member of a reserved name";
    for body in [hidden, &spelled, &format!(r#"{{"n":1,{}"#, &hidden[1..])] {
        assert_eq!(read(OpenAiChat, body), Err(reserved.into()), "{body}");
    }
    let config = format!(r#"{{"generationConfig":{hidden}}}"#);
    let gemini = read_at(Gemini, "/m:generateContent", config.as_bytes());
    assert_eq!(gemini, Err(reserved.into()));
    let number = format!(r#"{{"n":{hidden}}}"#);
    assert!(read(OpenAiChat, &number).is_err());
    let deeper = format!(r#"{{"messages":[{hidden}]}}"#);
    assert_eq!(read(OpenAiChat, &deeper), Ok(asked(None, None, 1)));
}

#[test]
fn what_several_layers_hold_is_the_least() {
    let held = |amount, output_max| HeldUse {
        amount: Money::from_nanos(amount),
        output_max,
    };
    let mut extensions = Extensions::new();
    for (told, known) in [
        (held(1, None), held(1, None)),
        (held(2, Some(9)), held(2, Some(9))),
        (held(3, Some(10)), held(3, Some(9))),
        (held(4, None), held(4, Some(9))),
    ] {
        told.tell(&mut extensions);
        assert_eq!(extensions.get(), Some(&known));
    }
}
