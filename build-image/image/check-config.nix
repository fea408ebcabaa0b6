# Check a container configuration during evaluation; otherwise a wrong key or type would go
# unnoticed until a container starts without it.
#
# Keys and types are those of the OCI image specification 1.1 (config.md), and docker's additional
# ones. Returns the configuration; throws one sentence that names all mistakes.
#
# The first argument is the image's name, the second the configuration.
name: config:
let
  inherit (builtins)
    all
    attrNames
    attrValues
    concatMap
    concatStringsSep
    elem
    filter
    isAttrs
    isBool
    isInt
    isList
    ;
  nearestName = import ../names/did-you-mean.nix;
  show = import ./show.nix;

  # Values that are allowed for strings: packages become their paths.
  isString = value: builtins.isString value || builtins.isPath value || isAttrs value && value ? outPath;
  isStrings = value: isList value && all isString value;
  isEmptySets =
    isName: value:
    isAttrs value && all (inner: inner == { }) (attrValues value) && all isName (attrNames value);
  isAbsolute = path: builtins.substring 0 1 "${path}" == "/";
  isStringSet = value: isAttrs value && all isString (attrValues value);

  string = {
    check = isString;
    what = "a string";
  };
  strings = {
    check = isStrings;
    what = "a list of strings";
  };
  number = {
    check = isInt;
    what = "a number";
  };
  boolean = {
    check = isBool;
    what = "true or false";
  };
  # docker takes no shorter time
  nanoseconds = {
    check = value: isInt value && (value == 0 || value >= 1000000);
    what = "a number of nanoseconds, 0 or at least 1000000";
  };

  # 0 to 65535
  port = "([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])";

  keys = {
    ArgsEscaped = boolean;
    AttachStderr = boolean;
    AttachStdin = boolean;
    AttachStdout = boolean;
    Cmd = strings;
    CpuShares = number;
    Domainname = string;
    Entrypoint = strings;
    Env = {
      check = value: isStrings value && all (v: builtins.match "[^=]+=.*" "${v}" != null) value;
      what = "a list of strings NAME=VALUE";
    };
    ExposedPorts = {
      check = isEmptySets (
        name: builtins.match "${port}(-${port})?(/(tcp|udp|sctp))?" name != null
      );
      what = "a set of ports, such as { \"80/tcp\" = { }; }";
    };
    Healthcheck = {
      check = isAttrs;
      what = "a set";
      keys = {
        Interval = nanoseconds;
        Retries = number;
        StartInterval = nanoseconds;
        StartPeriod = nanoseconds;
        Test = {
          check =
            value:
            isStrings value
            && (
              value == [ ]
              || elem (builtins.head value) [
                "CMD"
                "CMD-SHELL"
                "NONE"
              ]
            );
          what = "a list of strings that begins with \"CMD\", \"CMD-SHELL\" or \"NONE\"";
        };
        Timeout = nanoseconds;
      };
    };
    Hostname = string;
    Labels = {
      check = isStringSet;
      what = "a set of strings";
    };
    MacAddress = string;
    Memory = number;
    MemorySwap = number;
    NetworkDisabled = boolean;
    OnBuild = strings;
    OpenStdin = boolean;
    Shell = strings;
    StdinOnce = boolean;
    StopSignal = string;
    StopTimeout = number;
    Tty = boolean;
    User = string;
    Volumes = {
      check = isEmptySets isAbsolute;
      what = "a set of absolute paths, such as { \"/data\" = { }; }";
    };
    WorkingDir = {
      check = value: isString value && ("${value}" == "" || isAbsolute value);
      what = "an absolute path";
    };
  };

  # A key that is null counts as missing, as with optional attributes elsewhere in Nix.
  given = set: filter (key: set.${key} != null) (attrNames set);

  # The mistakes in a set that may have the keys `known`; `above` is put before their names.
  problemsOf =
    above: known: set:
    concatMap (
      key:
      if !(known ? ${key}) then
        [ "there is no key ${above}${key}${nearestName { names = attrNames known; } key}" ]
      else if !known.${key}.check set.${key} then
        [ "${above}${key} must be ${known.${key}.what}, not ${show set.${key}}" ]
      else if known.${key} ? keys then
        problemsOf "${above}${key}." known.${key}.keys set.${key}
      else
        [ ]
    ) (given set);
  problems = problemsOf "" keys config;
in
if !isAttrs config then
  throw "config of image ${name} must be a set, not ${show config}"
else if problems != [ ] then
  throw "config of image ${name}: ${concatStringsSep "; " problems}"
else
  removeAttrs config (filter (key: config.${key} == null) (attrNames config))
