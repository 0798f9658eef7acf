"""Scripts are split into statements exactly where SQLite would split them."""

from __future__ import annotations

import sqlite3

import pytest
from hypothesis import given
from hypothesis import strategies as st

from abt_db.errors import ScriptError
from abt_db.migrations.script import first_keyword, leading_comments, pragma_name, split


def texts(sql: str) -> list[str]:
    return [statement.text for statement in split(sql)]


TRIGGER = """\
CREATE TRIGGER log_it AFTER INSERT ON t BEGIN
    SELECT CASE WHEN new.a THEN 'END;' ELSE ';' END; -- END;
    DELETE FROM log; /* END; */
END;"""


class TestSplit:
    """A `;` ends a statement unless it stands in a string, a comment or a trigger (fault 71)."""

    @pytest.mark.parametrize(
        "sql", ["", " \r\n\t\f", ";;\n;", "-- SELECT 1;", "/* SELECT 1; */ -- x", "\ufeff"]
    )
    def test_nothing_but_space_and_comments_gives_no_statement(self, sql: str) -> None:
        assert split(sql) == []

    @pytest.mark.parametrize(
        "statement",
        [
            "SELECT ';';",
            "SELECT 'it''s; all';",
            'SELECT "a;b" FROM "t;";',
            "SELECT [a;b'], `c;\"d`;",
            "SELECT 1 -- ; '\n;",
            "SELECT /* ; /* ' */ 1;",
            "SELECT 1 /*/ ; */;",
            "SELECT 'a\r\nb;' ;",
            "SELECT x'3b' - -1;",
            TRIGGER,
            TRIGGER.replace("CREATE", "CREATE TEMP"),
            TRIGGER.replace("CREATE", "EXPLAIN CREATE"),
            TRIGGER.replace("CREATE", "EXPLAIN QUERY PLAN CREATE"),
            TRIGGER.replace("END;\n    DELETE", "END;;\n    DELETE"),
            TRIGGER.replace("\n", "\r\n"),
            TRIGGER.replace("\nEND", "\nEND_of_day; /* x */ eNd -- y\n"),
        ],
    )
    def test_a_semicolon_inside_does_not_end_it(self, statement: str) -> None:
        assert texts(f"{statement}\nSELECT 2;") == [statement, "SELECT 2;"]

    def test_the_last_statement_needs_no_semicolon(self) -> None:
        assert texts("SELECT 1; SELECT 2 -- end") == ["SELECT 1;", "SELECT 2 -- end"]
        assert texts(TRIGGER[:-1]) == [TRIGGER[:-1]]

    def test_a_byte_order_mark_does_not_hide_a_trigger(self) -> None:
        assert texts(f"\ufeff{TRIGGER}\ufeff{TRIGGER}") == [TRIGGER, TRIGGER]

    def test_each_statement_knows_its_line(self) -> None:
        found = split("-- one\r\nSELECT 1;\n\n/* four\n*/ SELECT '\n';; SELECT 3;\nSELECT 4")
        assert [(statement.line, statement.text) for statement in found] == [
            (2, "SELECT 1;"),
            (5, "SELECT '\n';"),
            (6, "SELECT 3;"),
            (7, "SELECT 4"),
        ]

    @pytest.mark.parametrize(
        ("tail", "problem"),
        [
            ("\nSELECT 'a;\n", "line 2: the string opened on line 2 never ends"),
            ("\nSELECT 'a', \n\"b;", "line 2: the quoted identifier opened on line 3 never ends"),
            ("\nSELECT [a;", "line 2: the quoted identifier opened on line 2 never ends"),
            ("\nSELECT `a;", "line 2: the quoted identifier opened on line 2 never ends"),
            ("\n\n/* a;", "line 3: the comment opened on line 3 never ends"),
            ("\nSELECT 1 /*/", "line 2: the comment opened on line 2 never ends"),
            (f"\n{TRIGGER[:-4]}", "line 2: the trigger that starts here never ends"),
            (f"\n{TRIGGER[:-4]} SELECT 1; SELECT", "line 2: the trigger that starts here"),
            ("\n\nSELECT '\0'", "line 3: it holds a NUL"),
            ("\n'\ud800'", "line 2: it holds half a surrogate pair"),
        ],
    )
    def test_what_never_ends_or_is_no_text_is_named_with_its_line(
        self, tail: str, problem: str
    ) -> None:
        with pytest.raises(ScriptError, match=f"^{problem}") as caught:
            split(f"SELECT 1;{tail}")
        assert f"line {caught.value.line}:" in problem

    @pytest.mark.parametrize(
        "sql",
        [
            "INSERT INTO t VALUES (1, 'a;b'); -- c;\n" * 3000,
            "INSERT INTO t VALUES (';')" + ", (';')" * 20_000,
            f"{TRIGGER[:-4]}{TRIGGER.splitlines()[1]}\n" * 3000 + "END;",
            "-- nothing; at all\n" * 10_000,
        ],
        ids=["statements", "one statement", "one trigger", "comments"],
    )
    def test_no_text_is_read_again_and_again(
        self, sql: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read = 0

        ask = sqlite3.complete_statement

        def counting(text: str) -> bool:
            nonlocal read
            read += len(text)
            return ask(text)

        monkeypatch.setattr(sqlite3, "complete_statement", counting)
        split(sql)
        assert read < 3 * len(sql)


# Any of these can stand where a space can. (`~` marks such places in the statements below.)
GAPS = st.lists(
    st.sampled_from(
        [" ", "\n", "\r\n", "\t", "\f", "/**/", "/* ; ' \" [ -- END; */", "-- ; ' \" ` [ /* \n"]
    ),
    min_size=1,
    max_size=3,
).map("".join)

# `#` becomes a number, so that no two make the same thing.
STATEMENTS = [
    "CREATE~TABLE t# (a DEFAULT 'x;''y', \"b;\"\"c\" TEXT,~[d;'e], `f;g`)",
    "CREATE~INDEX i# ON base (a,~b) WHERE a <> ';'~",
    "CREATE~VIEW v# AS SELECT~CASE a WHEN ';' THEN 'END;' END AS \"x;\" FROM base",
    "CREATE~TRIGGER~g# AFTER INSERT ON base BEGIN~INSERT INTO log VALUES (';END;');~END",
    "CREATE~TEMP~TRIGGER g# AFTER INSERT ON base BEGIN SELECT CASE WHEN 1 THEN 2 END~;~END~",
    "CREATE~TRIGGER h# AFTER DELETE ON base BEGIN SELECT 1;~DELETE FROM log;~END",
    "EXPLAIN~CREATE~TRIGGER e# AFTER INSERT ON base BEGIN~SELECT 1; SELECT 2;~END",
    "EXPLAIN~QUERY~PLAN~SELECT * FROM base",
    "INSERT~INTO base (a, b) VALUES (#, 'it''s; -- fine /*'),~(';', \";\")",
    "UPDATE base SET b =~'[;' WHERE a = ';'",
    'ALTER~TABLE base ADD COLUMN~"c;#"',
    "WITH w AS (SELECT 1 AS x)~SELECT~CASE x WHEN 1 THEN ';' END FROM w",
    "SELECT 1~",
]


@st.composite
def scripts(draw: st.DrawFn) -> tuple[str, list[str], list[int]]:
    """Draw a script with the statements it is made of and their lines."""
    sql, statements, lines = "", [], []
    templates = draw(st.lists(st.sampled_from(STATEMENTS), max_size=6))
    for number, template in enumerate(templates):
        sql += "".join(draw(st.lists(GAPS | st.sampled_from([";", "\ufeff"]), max_size=3)))
        first, *others = template.replace("#", str(number)).split("~")
        statement = first + "".join(draw(GAPS) + other for other in others)
        if number < len(templates) - 1 or draw(st.booleans()):
            statement += ";"
        statements.append(statement)
        lines.append(sql.count("\n") + 1)
        sql += statement
    return sql, statements, lines


def state(db: sqlite3.Connection) -> list[list[tuple[object, ...]]]:
    queries = ("SELECT * FROM sqlite_schema", "SELECT * FROM sqlite_temp_schema")
    return [db.execute(query).fetchall() for query in (*queries, "SELECT * FROM base")]


class TestAgainstSQLite:
    """What comes of a script is what SQLite makes of it."""

    @given(scripts())
    def test_statements_come_back_as_they_were_joined_and_do_what_the_script_does(
        self, drawn: tuple[str, list[str], list[int]]
    ) -> None:
        sql, statements, lines = drawn
        found = split(sql)
        assert [statement.text for statement in found] == statements
        assert [statement.line for statement in found] == lines

        setup = "CREATE TABLE base (a, b); CREATE TABLE log (c);"
        together = sqlite3.connect(":memory:")
        together.executescript(setup + sql)
        single = sqlite3.connect(":memory:", isolation_level=None)
        for statement in split(setup) + found:
            single.execute(statement.text)
        assert state(single) == state(together)
        together.close()
        single.close()

    @given(
        st.lists(
            st.sampled_from(
                [
                    *";;; \n'\"`[]aé",
                    *("''", "/*", "*/", "--", "; END ;", ";END;", "x ", "END ", "CASE "),
                    *("EXPLAIN ", "CREATE ", "TEMP ", "TRIGGER ", "CREATE TRIGGER "),
                ]
            )
        ).map("".join)
    )
    def test_any_text_is_cut_where_asking_sqlite_about_every_semicolon_cuts_it(
        self, sql: str
    ) -> None:
        expected = cut_at_every_complete_prefix(sql)
        if expected is None:
            with pytest.raises(ScriptError):
                split(sql)
        else:
            assert texts(sql) == expected


def cut_at_every_complete_prefix(sql: str) -> list[str] | None:
    """Split the slow way: ask about the text up to each `;`; None for an unfinished end."""
    statements: list[str] = []
    rest = without_gap(sql)
    while rest:
        ends = [place + 1 for place, character in enumerate(rest) if character == ";"]
        end = next((end for end in ends if sqlite3.complete_statement(rest[:end])), None)
        if end is None:
            return [*statements, rest] if sqlite3.complete_statement(rest + "\n;") else None
        statements.append(rest[:end])
        rest = without_gap(rest[end:])
    return statements


def without_gap(sql: str) -> str:
    while True:
        sql = sql.lstrip(" \n;")
        if sql.startswith("--"):
            sql = sql.partition("\n")[2]
        elif sql.startswith("/*") and "*/" in sql[2:]:
            sql = sql[2:].partition("*/")[2]
        else:
            return sql


class TestFirstWords:
    """What kind of statement it is shows through comments and any way of writing it (fault 70)."""

    @pytest.mark.parametrize(
        ("sql", "keyword"),
        [
            ("begin immediate;", "BEGIN"),
            ("\ufeff-- x\n/* VACUUM */ CoMMit", "COMMIT"),
            ("PRAGMA foreign_keys = OFF", "PRAGMA"),
            ("END;", "END"),
            ("select(1)", "SELECT"),
            ("'quoted'", ""),
            ("-- only", ""),
            ("", ""),
        ],
    )
    def test_the_first_keyword_is_the_first_word(self, sql: str, keyword: str) -> None:
        assert first_keyword(sql) == keyword

    @pytest.mark.parametrize(
        ("sql", "name"),
        [
            ("PRAGMA foreign_keys = OFF;", "foreign_keys"),
            ("-- x\npragma/**/main . Journal_Mode(wal)", "journal_mode"),
            ('PRAGMA "main"."foreign_keys"', "foreign_keys"),
            ("PRAGMA[foreign_keys] = 0", "foreign_keys"),
            ("PRAGMA main.'foreign_keys' = 0", "foreign_keys"),
            ("PRAGMA", ""),
            ("PRAGMA = 1", ""),
            ("PRAGMATIC x", ""),
            ("SELECT 'PRAGMA x'", ""),
        ],
    )
    def test_a_pragma_is_known_by_its_name(self, sql: str, name: str) -> None:
        assert pragma_name(sql) == name

    def test_leading_comments_come_with_their_lines_up_to_the_first_statement(self) -> None:
        sql = "\ufeff-- one\r\n\n/* three\n*/ -- four\nSELECT 1; -- not this"
        assert list(leading_comments(sql)) == [
            (1, "-- one\r"),
            (3, "/* three\n*/"),
            (4, "-- four"),
        ]
