"""The catalog of a PostgreSQL database.

Definitions are the server's own, by the functions that pg_dump uses. With an empty search path
they name each schema, so that they do not depend on who asks.
"""

from collections.abc import Iterator
from typing import Final

from sqlalchemy import Connection, text

from service.migrator.catalog.things import Thing, ask

_OURS: Final = "n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'"


def _not_of_an_extension(catalog: str, oid: str) -> str:
    return f"""NOT EXISTS (
        SELECT FROM pg_depend e
        WHERE e.classid = '{catalog}'::regclass AND e.objid = {oid} AND e.deptype = 'e'
    )"""


_SCHEMAS: Final = f"""
    SELECT 'schema' AS kind, n.nspname AS name, NULL AS belongs_to,
        obj_description(n.oid, 'pg_namespace') AS comment
    FROM pg_namespace n WHERE {_OURS} AND {_not_of_an_extension("pg_namespace", "n.oid")}
"""

_EXTENSIONS: Final = """
    SELECT 'extension' AS kind, extname AS name, NULL AS belongs_to FROM pg_extension
"""

_RELATIONS: Final = f"""
    SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' ELSE 'table' END AS kind,
        n.nspname || '.' || c.relname AS name, c.relname AS belongs_to,
        CASE c.relkind WHEN 'r' THEN 'table' WHEN 'p' THEN 'partitioned' WHEN 'f' THEN 'foreign'
            WHEN 'v' THEN 'view' ELSE 'materialised' END AS sort,
        CASE c.relpersistence WHEN 'u' THEN 'yes' END AS unlogged,
        CASE WHEN c.relrowsecurity THEN 'yes' END AS "row security",
        CASE WHEN c.relforcerowsecurity THEN 'yes' END AS "row security forced",
        nullif(c.relreplident, 'd') AS "replica identity",
        array_to_string(c.reloptions, ', ') AS options,
        CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END AS definition,
        CASE WHEN c.relkind = 'p' THEN pg_get_partkeydef(c.oid) END AS "partition key",
        pg_get_expr(c.relpartbound, c.oid) AS "partition bound",
        (SELECT string_agg(i.inhparent::regclass::text, ', ' ORDER BY i.inhseqno)
            FROM pg_inherits i WHERE i.inhrelid = c.oid) AS parent,
        obj_description(c.oid, 'pg_class') AS comment
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f', 'v', 'm') AND {_OURS}
        AND {_not_of_an_extension("pg_class", "c.oid")}
"""

# A NOT NULL is a constraint of its own since version 18; its name says nothing that the column
# does not, and another one after a rename is no difference.
_COLUMNS: Final = f"""
    SELECT 'column' AS kind, n.nspname || '.' || c.relname || '.' || a.attname AS name,
        c.relname AS belongs_to, format_type(a.atttypid, a.atttypmod) AS type,
        NOT a.attnotnull AS nullable,
        CASE WHEN EXISTS (
            SELECT FROM pg_constraint k WHERE k.conrelid = c.oid AND k.contype = 'n'
                AND k.conkey[1] = a.attnum AND NOT k.convalidated
        ) THEN 'no' END AS "not null validated",
        pg_get_expr(d.adbin, d.adrelid) AS "default",
        CASE a.attidentity WHEN 'a' THEN 'always' WHEN 'd' THEN 'by default' END AS identity,
        CASE a.attgenerated WHEN 's' THEN 'stored' WHEN 'v' THEN 'virtual' END AS generated,
        CASE WHEN a.attcollation <> t.typcollation
            THEN a.attcollation::regcollation::text END AS collation,
        nullif(a.attcompression, '') AS compression,
        CASE WHEN a.attstorage <> t.typstorage THEN a.attstorage END AS storage,
        col_description(c.oid, a.attnum) AS comment
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_type t ON t.oid = a.atttypid
        LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attnum > 0 AND NOT a.attisdropped AND c.relkind IN ('r', 'p', 'f', 'v', 'm') AND {_OURS}
        AND {_not_of_an_extension("pg_class", "c.oid")}
"""

_INDEXES: Final = f"""
    SELECT 'index' AS kind, n.nspname || '.' || c.relname || '.' || x.relname AS name,
        c.relname AS belongs_to, pg_get_indexdef(i.indexrelid) AS definition,
        CASE WHEN NOT i.indisvalid THEN 'no' END AS valid,
        CASE WHEN i.indisclustered THEN 'yes' END AS clustered,
        CASE WHEN i.indisreplident THEN 'yes' END AS "replica identity",
        obj_description(x.oid, 'pg_class') AS comment
    FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class c ON c.oid = i.indrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS} AND {_not_of_an_extension("pg_class", "c.oid")} AND c.relkind <> 't'
        AND NOT EXISTS (SELECT FROM pg_constraint k WHERE k.conindid = i.indexrelid
            AND k.conrelid = i.indrelid AND k.contype IN ('p', 'u', 'x'))
"""

_CONSTRAINTS: Final = f"""
    SELECT 'constraint' AS kind, n.nspname || '.' || c.relname || '.' || k.conname AS name,
        c.relname AS belongs_to, pg_get_constraintdef(k.oid) AS definition,
        obj_description(k.oid, 'pg_constraint') AS comment
    FROM pg_constraint k JOIN pg_class c ON c.oid = k.conrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE k.contype NOT IN ('n', 't') AND {_OURS} AND {_not_of_an_extension("pg_class", "c.oid")}
"""

_TRIGGERS: Final = f"""
    SELECT 'trigger' AS kind, n.nspname || '.' || c.relname || '.' || g.tgname AS name,
        c.relname AS belongs_to, pg_get_triggerdef(g.oid) AS definition,
        CASE g.tgenabled WHEN 'D' THEN 'no' ELSE nullif(g.tgenabled, 'O')::text END AS enabled,
        obj_description(g.oid, 'pg_trigger') AS comment
    FROM pg_trigger g JOIN pg_class c ON c.oid = g.tgrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE NOT g.tgisinternal AND {_OURS} AND {_not_of_an_extension("pg_trigger", "g.oid")}
    UNION ALL
    SELECT 'rule', n.nspname || '.' || c.relname || '.' || r.rulename, c.relname,
        pg_get_ruledef(r.oid), nullif(r.ev_enabled, 'O')::text,
        obj_description(r.oid, 'pg_rewrite')
    FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
        JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE r.rulename <> '_RETURN' AND {_OURS} AND {_not_of_an_extension("pg_rewrite", "r.oid")}
"""

_POLICIES: Final = f"""
    SELECT 'policy' AS kind, n.nspname || '.' || c.relname || '.' || p.polname AS name,
        c.relname AS belongs_to, p.polcmd AS command, p.polpermissive AS permissive,
        (SELECT string_agg(CASE r WHEN 0 THEN 'public' ELSE pg_get_userbyid(r) END, ', ')
            FROM unnest(p.polroles) r) AS roles,
        pg_get_expr(p.polqual, c.oid) AS "using",
        pg_get_expr(p.polwithcheck, c.oid) AS "with check"
    FROM pg_policy p JOIN pg_class c ON c.oid = p.polrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE {_OURS}
"""

_SEQUENCES: Final = f"""
    SELECT 'sequence' AS kind, n.nspname || '.' || c.relname AS name, o.relname AS belongs_to,
        format_type(s.seqtypid, NULL) AS type, s.seqstart AS start, s.seqincrement AS increment,
        s.seqmin AS minimum, s.seqmax AS maximum, s.seqcache AS cache, s.seqcycle AS cycle,
        o.relname || '.' || a.attname AS "owned by", obj_description(c.oid, 'pg_class') AS comment
    FROM pg_sequence s JOIN pg_class c ON c.oid = s.seqrelid
        JOIN pg_namespace n ON n.oid = c.relnamespace
        LEFT JOIN pg_depend d ON d.objid = c.oid AND d.classid = 'pg_class'::regclass
            AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
        LEFT JOIN pg_class o ON o.oid = d.refobjid
        LEFT JOIN pg_attribute a ON a.attrelid = d.refobjid AND a.attnum = d.refobjsubid
    WHERE {_OURS} AND {_not_of_an_extension("pg_class", "c.oid")}
"""

_TYPES: Final = f"""
    SELECT CASE t.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' ELSE 'type' END AS kind,
        n.nspname || '.' || t.typname AS name, NULL AS belongs_to,
        (SELECT string_agg(quote_literal(enumlabel), ', ' ORDER BY enumsortorder)
            FROM pg_enum WHERE enumtypid = t.oid) AS "values",
        (SELECT string_agg(attname || ' ' || format_type(atttypid, atttypmod), ', ' ORDER BY attnum)
            FROM pg_attribute WHERE attrelid = t.typrelid AND attnum > 0 AND NOT attisdropped)
            AS fields,
        (SELECT rngsubtype::regtype::text FROM pg_range WHERE rngtypid = t.oid) AS range,
        CASE WHEN t.typtype = 'd' THEN format_type(t.typbasetype, t.typtypmod) END AS base,
        CASE WHEN t.typtype = 'd' THEN NOT t.typnotnull END AS nullable,
        t.typdefault AS "default",
        (SELECT string_agg(conname || ' ' || pg_get_constraintdef(oid), ', ' ORDER BY conname)
            FROM pg_constraint WHERE contypid = t.oid AND contype = 'c') AS checks,
        obj_description(t.oid, 'pg_type') AS comment
    FROM pg_type t JOIN pg_namespace n ON n.oid = t.typnamespace
        LEFT JOIN pg_class c ON c.oid = t.typrelid
    WHERE t.typtype IN ('e', 'd', 'c', 'r') AND (t.typtype <> 'c' OR c.relkind = 'c') AND {_OURS}
        AND {_not_of_an_extension("pg_type", "t.oid")}
"""

_FUNCTIONS: Final = f"""
    SELECT CASE f.prokind WHEN 'p' THEN 'procedure' WHEN 'a' THEN 'aggregate' ELSE 'function' END
        AS kind,
        n.nspname || '.' || f.proname || '(' || pg_get_function_identity_arguments(f.oid) || ')'
        AS name, NULL AS belongs_to,
        CASE f.prokind WHEN 'a' THEN
            concat_ws(' ', a.aggtransfn, a.aggfinalfn, format_type(a.aggtranstype, NULL),
                a.agginitval) ELSE pg_get_functiondef(f.oid) END AS definition,
        obj_description(f.oid, 'pg_proc') AS comment
    FROM pg_proc f JOIN pg_namespace n ON n.oid = f.pronamespace
        LEFT JOIN pg_aggregate a ON a.aggfnoid = f.oid
    WHERE {_OURS} AND {_not_of_an_extension("pg_proc", "f.oid")}
"""

_STATISTICS: Final = f"""
    SELECT 'statistics' AS kind, n.nspname || '.' || s.stxname AS name, c.relname AS belongs_to,
        pg_get_statisticsobjdef(s.oid) AS definition
    FROM pg_statistic_ext s JOIN pg_namespace n ON n.oid = s.stxnamespace
        JOIN pg_class c ON c.oid = s.stxrelid
    WHERE {_OURS} AND {_not_of_an_extension("pg_statistic_ext", "s.oid")}
"""

_QUERIES: Final = (
    _SCHEMAS,
    _EXTENSIONS,
    _RELATIONS,
    _COLUMNS,
    _INDEXES,
    _CONSTRAINTS,
    _TRIGGERS,
    _POLICIES,
    _SEQUENCES,
    _TYPES,
    _FUNCTIONS,
    _STATISTICS,
)


def things(connection: Connection) -> Iterator[Thing]:
    """Everything in the schemas that are neither the server's own nor an extension's."""
    connection.execute(text("SELECT set_config('search_path', '', true)"))
    for query in _QUERIES:
        yield from ask(connection, query)
