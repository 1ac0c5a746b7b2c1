//! What `.env.local` says: as Node's `dotenv` reads it.

#[path = "../../examples/support/env_file.rs"]
mod env_file;

fn read(text: &str) -> Vec<(String, String)> {
    let mut settings: Vec<_> = env_file::parse(text).into_iter().collect();
    settings.sort();
    settings
}

#[track_caller]
fn says(line: &str, value: &str) {
    let expected = [("A".to_owned(), value.to_owned())];
    assert_eq!(read(line), expected, "{line}");
    // Also between others, and with other line ends.
    let among = format!("# first\n\n{line}\nZ=last");
    for ends in ["\n", "\r\n", "\r"] {
        let settings = env_file::parse(&among.replace('\n', ends));
        assert_eq!(settings["A"], value, "{line}");
        assert_eq!(settings["Z"], "last", "{line}");
    }
}

#[test]
fn a_value_without_quotes_goes_to_the_end_of_its_line_or_to_a_comment() {
    says("A=192.168.1.100, 10.0.0.50", "192.168.1.100, 10.0.0.50");
    says("A=one two # three", "one two");
    says("A=one#two", "one");
    says("A=# nothing", "");
    says("A=", "");
    says("  A \t=  blanks around \t", "blanks around");
    says("A=it's one value", "it's one value");
    says(r"A=C:\new\folder", r"C:\new\folder");
    says("A=b=c==", "b=c==");
    says("export A=exported", "exported");
    says("A: as in YAML", "as in YAML");
    says("A=ключ", "ключ");
}

#[test]
fn a_value_in_quotes_keeps_what_is_in_them() {
    for quote in ['\'', '"', '`'] {
        says(&format!("A={quote} a # b {quote}"), " a # b ");
        says(&format!("A= {quote}a{quote} # comment"), "a");
        says(&format!("A={quote}{quote}"), "");
    }
    says(r#"A="two\nlines""#, "two\nlines");
    says(r"A='two\nlines'", r"two\nlines");
    says(r#"A='with "these" in it'"#, r#"with "these" in it"#);
    says(r#"A="not \" closed""#, r#"not \" closed"#);
    let over_lines = env_file::parse("A=\"one\nB=two\"\nC=3");
    assert_eq!((&*over_lines["A"], &*over_lines["C"]), ("one\nB=two", "3"));
    assert_eq!(over_lines.len(), 2);
}

#[test]
fn quotes_that_are_not_closed_or_not_all_are_no_quotes() {
    says("A='not closed", "'not closed");
    says("A='it's more'", "it's more");
    says("A='a' b", "'a' b");
}

#[test]
fn the_last_of_two_lines_counts() {
    says("A=*\nA=10.0.0.1", "10.0.0.1");
    says("A=10.0.0.1\nA=", "");
}

#[test]
fn what_is_no_assignment_is_passed_over() {
    for text in [
        "",
        "\n\n",
        "A",
        "#A=1",
        "  # A=1",
        "=1",
        "A B=1",
        "exportA",
        "A:1",
        "{ \"A\": 1 }",
    ] {
        assert_eq!(read(text), [], "{text}");
    }
    assert_eq!(env_file::parse("\u{feff}A=1")["A"], "1");
}
