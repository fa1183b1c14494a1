-- Takes away what a policy has no business with: starting programs, changing files, native and compiled
-- code, ending the process. Runs once, before the policy; `...` is the policy's folder, the
-- logger, the maker of stand-ins for modules that do not exist here, the reader of source files, what an asynchronous
-- function yields while it waits, and whether the call's time is over.

local folder, log, stand_in, read_source, waiting, out_of_time = ...
local error, load, pairs, select, tostring, type = error, load, pairs, select, tostring, type
local rawequal, rawget, setmetatable = rawequal, rawget, setmetatable
local concat, open, lines = table.concat, io.open, io.lines
local search = package.searchpath

-- Compiled chunks are not checked by Lua and can break it, so only text is loaded.
function _G.load(chunk, name, _, ...)
  if select('#', ...) > 0 then
    return load(chunk, name, 't', ...)
  end
  return load(chunk, name, 't')
end

local function load_file(path)
  local text, reason = read_source(path)
  if not text then
    return nil, reason
  end
  return load(text, '@' .. path, 't')
end

-- An asynchronous function waits by yielding a mark to whoever resumed it. Inside of a coroutine that the policy made, that is
-- the policy: without this, `coroutine.wrap(function() return gatepost.password.verify(...) end)()` gives the mark, which is
-- true, for a wrong password. So a resume that gets the mark hands it on, until it reaches the worker, and asks again.
local create, resume, yield = coroutine.create, coroutine.resume, coroutine.yield
local close, status = coroutine.close, coroutine.status
local function relay(thread, good, first, ...)
  if good and rawequal(first, waiting) then
    return relay(thread, resume(thread, yield(first)))
  end
  return good, first, ...
end
local function resume_in_time(thread, ...)
  -- The hook ends one coroutine after the other. A policy that makes a new one for each that ended would keep it busy.
  if out_of_time() then
    error('the call took too long', 0)
  end
  return relay(thread, resume(thread, ...))
end
coroutine.resume = resume_in_time
local function results(thread, good, ...)
  if good then
    return ...
  end
  if status(thread) == 'dead' then
    close(thread)
  end
  error((...), 0)
end
function coroutine.wrap(body)
  local thread = create(body)
  return function(...)
    return results(thread, resume_in_time(thread, ...))
  end
end

-- Lua turns hooks off while it runs a finalizer, so nothing could end one that loops.
function _G.setmetatable(value, meta)
  if type(meta) == 'table' and rawget(meta, '__gc') ~= nil then
    error("'__gc' is not available here", 2)
  end
  return setmetatable(value, meta)
end

local function absolute(path)
  if folder == '' or path:sub(1, 1) == '/' then
    return path
  end
  return folder .. '/' .. path
end

function _G.dofile(path)
  if type(path) ~= 'string' then
    error("bad argument #1 to 'dofile' (string expected, got " .. type(path) .. ')', 2)
  end
  local chunk, reason = load_file(absolute(path))
  if not chunk then
    error(reason, 2)
  end
  return chunk()
end
_G.loadfile = nil

function _G.print(...)
  local words = {}
  for index = 1, select('#', ...) do
    words[index] = tostring((select(index, ...)))
  end
  log(concat(words, '\t'))
end

local collect = collectgarbage
function _G.collectgarbage(what)
  if what ~= 'count' then
    error("collectgarbage takes nothing but 'count' here", 2)
  end
  return collect('count')
end

string.dump = nil

_G.os = {
  clock = os.clock,
  date = os.date,
  difftime = os.difftime,
  getenv = os.getenv,
  time = os.time,
}

local function reading(mode)
  return mode == nil or mode == 'r' or mode == 'rb'
end

_G.io = {
  lines = function(path, ...)
    if type(path) ~= 'string' then
      error("bad argument #1 to 'io.lines' (string expected, got " .. type(path) .. ')', 2)
    end
    return lines(path, ...)
  end,
  open = function(path, mode)
    if not reading(mode) then
      error("io.open opens files for reading only ('r' or 'rb')", 2)
    end
    return open(path, mode)
  end,
  type = io.type,
}

-- The policy's folder first; no native modules, no compiled ones.
local here = folder == '' and '.' or folder
local preloaded = package.searchers[1]
local old = package
_G.package = {
  config = old.config,
  loaded = old.loaded,
  path = here .. '/?.lua;' .. here .. '/?/init.lua',
  preload = old.preload,
  searchpath = search,
}
local function find(name)
  local path, tried = search(name, package.path)
  if not path then
    if name:find('^policy%-extras%.') then
      return function()
        return stand_in(name)
      end
    end
    return tried
  end
  local chunk, reason = load_file(path)
  if not chunk then
    error("cannot load module '" .. name .. "': " .. reason, 0)
  end
  return chunk, path
end
-- `require` reads the original table, whatever the policy makes of the one that it sees.
for key in pairs(old) do
  if key ~= 'loaded' and key ~= 'preload' then
    old[key] = nil
  end
end
old.path = ''
old.cpath = ''
old.searchers = { preloaded, find }
old.loaded.package = package
old.loaded.os = os
old.loaded.io = io
