//! The names of tables and indexes, quoted, and how they get into SQL. The statements are in `statements.rs`.

use tokio_postgres::types::Type;

/// The names, as they stand in SQL.
#[derive(Clone, Debug)]
pub(crate) struct Tables {
    schema: String,
    prefix: String,
    /// How an id is ordered byte by byte; depends on how the column compares.
    id: String,
}

/// A statement and the types of its parameters.
#[derive(Clone, Debug)]
pub(crate) struct Query {
    pub(crate) sql: String,
    pub(crate) types: Vec<Type>,
}

impl Tables {
    pub(crate) fn new(schema: &str, prefix: &str) -> Self {
        Self { schema: schema.to_owned(), prefix: prefix.to_owned(), id: "id".to_owned() }
    }

    /// The same tables, of which the column `id` does not compare byte by byte.
    pub(crate) fn with_id_of_other_order(mut self) -> Self {
        self.id = "id COLLATE \"C\"".to_owned();
        self
    }

    /// True if lists need an index of their own to be in the order of ids.
    pub(crate) fn needs_id_index(&self) -> bool {
        self.id != "id"
    }

    pub(crate) fn schema(&self) -> &str {
        &self.schema
    }

    /// The name of a table of ours, as the catalog has it.
    pub(crate) fn plain(&self, name: &str) -> String {
        format!("{}{name}", self.prefix)
    }

    /// The name of a table or index of ours with its schema.
    pub(crate) fn qualified(&self, name: &str) -> String {
        format!("{}.{}", quoted(&self.schema), quoted(&self.plain(name)))
    }

    /// SQL with the names filled in: `{evaluations}`, `{events}`, `{bodies}`, `{metrics}`, `{versions}`, `{id}`, and
    /// `{name:x}` for the name of an index.
    pub(crate) fn fill(&self, sql: &str) -> String {
        let mut out = String::with_capacity(sql.len() + 256);
        let mut rest = sql;
        while let Some((before, behind)) = rest.split_once('{') {
            out.push_str(before);
            let (word, after) = behind.split_once('}').unwrap_or((behind, ""));
            match word {
                "evaluations" => out.push_str(&self.qualified("evaluations")),
                "events" => out.push_str(&self.qualified("evaluation_events")),
                "bodies" => out.push_str(&self.qualified("evaluation_bodies")),
                "metrics" => out.push_str(&self.qualified("evaluation_metrics")),
                "versions" => out.push_str(&self.qualified("storage_worker_schema")),
                "id" => out.push_str(&self.id),
                _ => match word.strip_prefix("name:") {
                    Some(name) => out.push_str(&quoted(&self.plain(name))),
                    // JSON in SQL.
                    None => {
                        out.push('{');
                        rest = behind;
                        continue;
                    }
                },
            }
            rest = after;
        }
        out.push_str(rest);
        out
    }

    /// A statement with the names filled in; lines that are comments are left out.
    pub(crate) fn query(&self, sql: &str, types: &[Type]) -> Query {
        Query { sql: self.fill(&without_comments(sql)), types: types.to_vec() }
    }
}

/// SQL without the lines that are comments.
pub(crate) fn without_comments(sql: &str) -> String {
    sql.lines().filter(|line| !line.starts_with("--")).collect::<Vec<_>>().join("\n")
}

/// An identifier in quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_quoted_and_json_is_left_alone() {
        let tables = Tables::new("My \"schema\"", "p_").with_id_of_other_order();

        assert_eq!(tables.fill("{evaluations}"), r#""My ""schema"""."p_evaluations""#);
        assert_eq!(tables.fill(r#"{"a":{id}} {name:x}"#), r#"{"a":id COLLATE "C"} "p_x""#);
    }
}
