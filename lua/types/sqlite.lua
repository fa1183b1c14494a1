---@meta sqlite

---@class sqlite
local sqlite = {}

---@class sqlite.Connection
local connection = {}

---Runs a statement. Rows of one column come as a list of values, rows of more as a list of tables; a statement without rows
---gives the number of rows that it changed, 0 where it changes none. More than 100,000 rows or 16 MiB raise. Errors do not
---repeat the statement.
---@param sql string
---@param ... any positional parameters, or one table of named ones
---@return any
function connection:execute(sql, ...) end
function connection:close() end

---Opens a database. More than 128 open connections raise; close what is not needed, or open one outside of the handler.
---@param path string relative to the policy's folder, or ':memory:'
---@param busy_timeout_ms? integer default 500
---@return sqlite.Connection
function sqlite.open(path, busy_timeout_ms) end

return sqlite
