//! The rules that keep the hot functions fast and portable to a distributed Postgres, checked on their text: what each must set, that every table
//! reference names the shard, and the forms whose plans collapse. Each rule is shown to bite on a text that breaks it.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use longshore_core::migrate::FUNCTIONS;

/// Tables whose keys begin with the shard; they grow.
const TABLES: [&str; 13] = [
    "workflow_runs",
    "execution_step_attempts",
    "step_ready",
    "step_delayed",
    "step_waiting",
    "signals",
    "pauses",
    "context_heads",
    "execution_context_snapshots",
    "step_joins",
    "lanes",
    "worker_lanes",
    "closed",
];

/// What every function sets for itself, so that its plans hold behind a pooler and for every role.
const SETTINGS: [&str; 5] = [
    "set search_path = longshore , pg_temp",
    "set plan_cache_mode = force_generic_plan",
    "set jit = off",
    "set enable_seqscan = off",
    "language plpgsql",
];

/// What a function sets that reads more than single rows by key.
const JOIN_SETTINGS: [&str; 3] =
    ["set enable_hashjoin = off", "set enable_mergejoin = off", "set enable_bitmapscan = off"];

/// Called by applications, so they are told the shard by no one: it is a constant of theirs.
const CALLED_BY_APPLICATIONS: [&str; 4] = ["query", "signal", "start_run", "start_runs"];

/// Words, numbers, symbols and whole strings of a text, without comments; in lower case.
fn tokens(text: &str) -> Vec<String> {
    let text: String =
        text.lines().map(|line| line.split("--").next().unwrap_or_default()).collect::<Vec<_>>().join("\n");
    let letters: Vec<char> = text.to_lowercase().chars().collect();
    let word = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '.' | '$' | '#');
    let (mut tokens, mut at) = (Vec::new(), 0);
    while at < letters.len() {
        let begin = at;
        let letter = letters[at];
        at += 1;
        if letter.is_whitespace() {
            continue;
        }
        if letter == '\'' {
            while at < letters.len() && letters[at] != '\'' {
                at += 1;
            }
            at += 1;
        } else if word(letter) {
            while at < letters.len() && word(letters[at]) {
                at += 1;
            }
        } else if letter == ':' && letters.get(at) == Some(&'=') {
            at += 1;
        }
        tokens.push(letters[begin..at.min(letters.len())].iter().collect());
    }
    tokens
}

/// The statements of a function's body. Loops and conditions are cut where their own statements begin.
fn statements(tokens: &[String]) -> Vec<Vec<String>> {
    let begin = tokens.iter().position(|token| token == "begin").map_or(tokens.len(), |at| at + 1);
    let (mut statements, mut statement, mut cases) = (Vec::new(), Vec::new(), 0);
    for token in &tokens[begin..] {
        match token.as_str() {
            "case" => cases += 1,
            "end" if cases > 0 => cases -= 1,
            _ => {}
        }
        let cut = matches!(token.as_str(), ";" | "loop")
            || (cases == 0 && matches!(token.as_str(), "then" | "else" | "begin"));
        if cut {
            statements.push(std::mem::take(&mut statement));
        } else {
            statement.push(token.clone());
        }
    }
    statements.push(statement);
    statements.retain(|statement| !statement.is_empty());
    statements
}

/// A table that a statement names: where, at which depth of parentheses, and under which name it goes on.
struct Reference<'a> {
    table: &'a str,
    name: &'a str,
    depth: usize,
    inserted: bool,
}

fn references(statement: &[String]) -> Vec<Reference<'_>> {
    let mut depth = 0_usize;
    let mut found = Vec::new();
    for (at, token) in statement.iter().enumerate() {
        match token.as_str() {
            "(" => depth += 1,
            ")" => depth = depth.saturating_sub(1),
            _ => {}
        }
        let table = token.strip_prefix("longshore.").unwrap_or(token);
        let before = at.checked_sub(1).map_or("", |at| statement[at].as_str());
        if !TABLES.contains(&table) || !matches!(before, "from" | "join" | "update" | "into" | "," | "using") {
            continue;
        }
        let next = statement.get(at + 1).map_or("", String::as_str);
        let alias = if next == "as" { statement.get(at + 2).map_or("", String::as_str) } else { next };
        let named = alias.chars().next().is_some_and(char::is_alphabetic)
            && !matches!(alias, "where" | "set" | "values" | "select" | "order" | "on");
        let inserted = before == "into" && at >= 2 && statement[at - 2] == "insert";
        if before == "into" && !inserted {
            continue; // select into a variable
        }
        found.push(Reference { table, name: if named { alias } else { table }, depth, inserted });
    }
    found
}

/// What is wrong with a function's text.
fn lint(name: &str, text: &str) -> Vec<String> {
    let all = tokens(text);
    let head = all.join(" ");
    let mut wrong = Vec::new();
    // what is said to depend on its arguments alone reads no table: it has no plan, and no shard
    if head.contains("language plpgsql immutable") {
        let tables = statements(&all).iter().map(|statement| references(statement).len()).sum::<usize>();
        return (tables > 0).then(|| format!("{name}: immutable, and reads a table")).into_iter().collect();
    }
    let body = all.iter().position(|token| token == "begin").unwrap_or(all.len());
    let reads_many = all[body..].iter().any(|token| matches!(token.as_str(), "unnest" | "join" | "lateral" | "limit"));
    let joins = JOIN_SETTINGS.iter().filter(|_| reads_many);
    for setting in SETTINGS.iter().chain(joins) {
        if !head.contains(setting) {
            wrong.push(format!("{name}: `{setting}` is missing"));
        }
    }
    let shard_first = head.contains(&format!("longshore.{name} ( p_shard smallint"));
    let own_shard = CALLED_BY_APPLICATIONS.contains(&name) && head.contains("p_shard constant smallint := 0");
    if !shard_first && !own_shard {
        wrong.push(format!("{name}: p_shard smallint is not its first parameter"));
    }
    for statement in statements(&all) {
        wrong.extend(
            lint_statement(&statement).into_iter().map(|what| format!("{name}: {what}: {}", statement.join(" "))),
        );
    }
    wrong
}

/// Without `(list is null or column in (select unnest(list)))`: beside the `or` no join can be made of it, so it is a hashed set that each row is looked up
/// in, whatever the plan. (`= any (list)` goes through the list for each row.)
fn without_hashed_sets(statement: &[String]) -> Vec<String> {
    const FORM: &str = "( list is null or column in ( select unnest ( list ) ) )";
    let form: Vec<&str> = FORM.split(' ').collect();
    let mut left = Vec::with_capacity(statement.len());
    let mut rest = statement;
    while let Some((token, after)) = rest.split_first() {
        let alike = rest.len() >= form.len()
            && form.iter().zip(rest).all(|(form, token)| match *form {
                "list" => *token == rest[1],
                "column" => true,
                word => token == word,
            });
        if alike {
            rest = &rest[form.len()..];
        } else {
            left.push(token.clone());
            rest = after;
        }
    }
    left
}

fn lint_statement(statement: &[String]) -> Vec<String> {
    let statement = &without_hashed_sets(statement);
    let text = format!(" {} ", statement.join(" "));
    let mut wrong = Vec::new();
    let references = references(statement);
    for reference in &references {
        let named = if reference.inserted {
            text.contains("p_shard")
        } else {
            let own = format!(" {}.shard = p_shard ", reference.name);
            text.contains(&own) || (reference.name == reference.table && text.contains(" shard = p_shard "))
        };
        if !named {
            wrong.push(format!("{} without `shard = p_shard`", reference.table));
        }
    }
    let first = statement[0].as_str();
    if first == "with" && text.contains(" insert into ") {
        wrong.push("an insert inside `with`".to_owned());
    }
    if sets_an_element(statement) {
        wrong.push("`set` with a bare element of an array".to_owned());
    }
    let unnested = text.contains(" unnest ( ");
    let outer: Vec<&Reference<'_>> =
        references.iter().filter(|reference| reference.depth == 0 && !reference.inserted).collect();
    let rewrites = text.replace(" do update ", " ").contains(" update ") || text.contains(" delete from ");
    let by_ctid = text.contains("ctid = ");
    let many = unnested || text.contains(" jsonb_to_recordset ( ");
    if many && rewrites && !by_ctid {
        wrong.push("an update or delete of many keys: loop over them".to_owned());
    } else if unnested && !outer.is_empty() && first != "with" {
        wrong
            .push("an array joined to a growing table: read by `lateral (… offset 0)` or a scalar subquery".to_owned());
    }
    if unnested
        && !references.is_empty()
        && text.contains(" exists ( select from ")
        && !text.contains(" exists ( select from unnest ")
    {
        wrong.push("`exists` becomes a semi-join with the array: use a scalar subquery".to_owned());
    }
    if unnested
        && text.contains(" lateral ( ")
        && references.iter().any(|r| r.depth > 0)
        && !text.contains(" offset 0 )")
        && !text.contains(" limit ")
    {
        wrong.push("a lateral subquery without `offset 0` or `limit` is pulled up into a join".to_owned());
    }
    if by_ctid {
        let by = ["delete from ", "update "].iter().find_map(|verb| Some(text.split_once(verb)?.1));
        let alias = by.and_then(|rest| rest.split(' ').nth(1)).unwrap_or_default();
        let arms = text.contains(&format!("( {alias}.shard = p_shard and "))
            && text.contains(&format!(" or p_shard = {alias}.shard and "));
        if by.is_some() && !arms {
            wrong.push("a write by ctid without the condition of two arms".to_owned());
        }
    }
    wrong
}

/// `set column = array[i]`: an assignment whose value is one element and nothing else around it.
fn sets_an_element(statement: &[String]) -> bool {
    let mut in_set = false;
    statement.windows(3).any(|three| {
        match three[0].as_str() {
            "set" => in_set = true,
            "where" | "from" | "returning" => in_set = false,
            _ => {}
        }
        in_set && three[0] == "=" && three[1].chars().all(|c| c.is_alphanumeric() || c == '_') && three[2] == "["
    })
}

#[test]
fn the_hot_functions_keep_the_rules() {
    let wrong: Vec<String> = FUNCTIONS.iter().flat_map(|function| lint(function.name, function.text)).collect();
    assert!(wrong.is_empty(), "{wrong:#?}");
    // the reading of the texts finds what is there
    let cycle = FUNCTIONS.iter().find(|function| function.name == "cycle_2").unwrap();
    let found: Vec<String> = statements(&tokens(cycle.text))
        .iter()
        .flat_map(|statement| references(statement).iter().map(|r| r.table.to_owned()).collect::<Vec<_>>())
        .collect();
    for table in TABLES {
        assert!(found.iter().any(|name| name == table), "{table} is not seen in the cycle");
    }
}

fn function(body: &str) -> String {
    format!(
        "create or replace function longshore.sample(p_shard smallint, p_runs uuid[]) returns void\nlanguage plpgsql volatile
         set search_path = longshore, pg_temp\nset plan_cache_mode = force_generic_plan\nset jit = off\nset enable_seqscan = off
         set enable_hashjoin = off\nset enable_mergejoin = off\nset enable_bitmapscan = off
         as $sample$\nbegin\n{body}\nend\n$sample$;"
    )
}

#[test]
fn a_sound_function_passes() {
    let body = "
        -- a comment; with a semicolon and from step_ready
        for q in select t.run_id from unnest(p_runs) t (run_id) order by 1 loop
            update workflow_runs w set state = q.state where w.shard = p_shard and w.run_id = q.run_id;
        end loop;
        with c as (delete from step_ready r where (r.shard = p_shard and r.attempt >= 0 or p_shard = r.shard and r.attempt < 0)
            and r.ctid = any (array(select s.ctid from step_ready s where s.shard = p_shard order by s.seq limit 5 for update skip locked))
            returning r.run_id) select array_agg(c.run_id) into v_runs from c;
        insert into step_ready (shard, run_id) select p_shard, t.run_id from unnest(p_runs) t (run_id);
        delete from step_joins j where j.shard = p_shard and j.run_id = p_run and (p_frames is null or j.frame in (select unnest(p_frames)));
        insert into step_joins as j (shard, run_id) select p_shard, t.run_id from unnest(p_runs) t (run_id) order by t.run_id
            on conflict (shard, run_id) do update set taken = j.taken + excluded.taken;
        return query select t.run_id, case when w.input is null then 1 else 2 end from unnest(p_runs) t (run_id),
            lateral (select r.input from workflow_runs r where r.shard = p_shard and r.run_id = t.run_id offset 0) w;";
    assert_eq!(lint("sample", &function(body)), Vec::<String>::new());
}

#[test]
fn each_rule_bites() {
    let bad = [
        ("delete from lanes l where l.lane_id = 1;", "without `shard = p_shard`"),
        ("perform from closed;", "without `shard = p_shard`"),
        (
            "select 1 into x from step_ready r where r.shard = p_shard and exists (select from closed c where c.run_id = r.run_id);",
            "closed without",
        ),
        ("insert into step_ready (run_id) values (v_run);", "without `shard = p_shard`"),
        (
            "if v_any then update workflow_runs w set state = 1 where w.run_id = v_run; end if;",
            "without `shard = p_shard`",
        ),
        (
            "with c as (insert into step_ready (shard) values (p_shard) returning 1) select 1 into x from c;",
            "an insert inside",
        ),
        (
            "update workflow_runs w set state = v_states[i], output = null where w.shard = p_shard and w.run_id = p_runs[i];",
            "a bare element",
        ),
        (
            "update workflow_runs w set state = 1 from unnest(p_runs) t (run_id) where w.shard = p_shard and w.run_id = t.run_id;",
            "loop over them",
        ),
        (
            "delete from step_joins j using unnest(p_runs) t (r) where j.shard = p_shard and j.run_id = t.r;",
            "loop over them",
        ),
        (
            "update workflow_runs w set state = 1 from jsonb_to_recordset(p_all) t (run uuid) where w.shard = p_shard and w.run_id = t.run;",
            "loop over them",
        ),
        (
            "return query select w.run_id from unnest(p_runs) t (r) join workflow_runs w on w.shard = p_shard and w.run_id = t.r;",
            "joined to a growing",
        ),
        (
            "return query select 1 from unnest(p_runs) t (r), lateral (select 1 from workflow_runs w where w.shard = p_shard and w.run_id = t.r) x;",
            "pulled up",
        ),
        (
            "select array_agg(q.id) into x from unnest(p_runs) q (id) where exists (select from step_ready r where r.shard = p_shard and r.run_id = q.id);",
            "semi-join",
        ),
        (
            "delete from step_ready r where r.shard = p_shard and r.ctid = any (array(select s.ctid from step_ready s where s.shard = p_shard limit 1));",
            "two arms",
        ),
        (
            "delete from step_joins j where j.shard = p_shard and j.run_id = p_run and (p_frames is null or j.frame in (select unnest(p_other)));",
            "loop over them",
        ),
        (
            "update closed c set frame = 1 from (select (select x.ctid from closed x where x.shard = p_shard and x.close_id = t.id) as place
                from unnest(p_ids) t (id) offset 0) t where c.shard = p_shard and c.ctid = t.place;",
            "two arms",
        ),
    ];
    for (body, expected) in bad {
        let wrong = lint("sample", &function(body));
        assert!(
            wrong.iter().any(|what| what.contains(expected)),
            "{body} should be refused for {expected:?}, found {wrong:#?}"
        );
    }
    for setting in [
        "set jit = off",
        "set plan_cache_mode = force_generic_plan",
        "set enable_hashjoin = off",
        "set enable_seqscan = off",
    ] {
        let text = function("return query select * from unnest(p_runs);").replace(setting, "");
        assert!(lint("sample", &text).iter().any(|what| what.contains(setting)), "{setting}");
    }
    let sql = function("null;").replace("language plpgsql", "language sql");
    assert!(lint("sample", &sql).iter().any(|what| what.contains("language plpgsql")));
    let late = function("null;").replace("p_shard smallint, p_runs uuid[]", "p_runs uuid[], p_shard smallint");
    assert!(lint("sample", &late).iter().any(|what| what.contains("first parameter")));
}
