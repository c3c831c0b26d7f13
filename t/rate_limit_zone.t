# What nginx -t refuses of rate limiting and redis, with the place; and what it takes.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;

my $zone   = "rate_limit_zone one zone=a:1m rate=1r/s;\n";
my $server = 'server { listen 127.0.0.1:1; %s }';

sub in_server { return $zone . sprintf $server, $_[0] }
sub in_redis  { return "redis main { server 127.0.0.1; $_[0] }" }

# [ text, part of the message, line counted from the text's first (0) ]
my @refused = (
    # rate_limit_zone
    [ 'rate_limit_zone one;',                                    'must have "zone" parameter' ],
    [ 'rate_limit_zone one zone=a:1m;',                          'must have "rate" parameter' ],
    [ 'rate_limit_zone one rate=1r/s;',                          'must have "zone" parameter' ],
    [ 'rate_limit_zone one zone=a:1m rate=0r/s;',                'rate "0r/s" must not be zero' ],
    [ 'rate_limit_zone one zone=a:1m rate=10x;',                 'invalid rate "10x"' ],
    [ 'rate_limit_zone one zone=a:1m rate=r/s;',                 'invalid rate "r/s"' ],
    [ 'rate_limit_zone one zone=a:1m rate=-1r/s;',               'invalid rate "-1r/s"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1.5r/s;',              'invalid rate "1.5r/s"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/0s;',               'rate "1r/0s" must not be zero' ],
    [ 'rate_limit_zone one zone=a:1m rate=;',                    '"rate"' ],
    [ 'rate_limit_zone one zone=a:1m rate=99999999999999999999r/s;', 'too large' ],
    [ 'rate_limit_zone one zone=a:1m rate=5000011r/s;',          'rate "5000011r/s" is too fine' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/10001d;',           'too large' ],
    [ 'rate_limit_zone one zone=a:1m rate=$no_such;',            'unknown "no_such" variable', undef ],
    [ 'rate_limit_zone $no_such zone=a:1m rate=1r/s;',           'unknown "no_such" variable', undef ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s burst=-1;',       'invalid value "-1" of "burst", a whole number expected' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s burst=x;',        'invalid value "x" of "burst"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/d burst=18446744073709551615;', 'is too large' ],
    [ 'rate_limit_zone one zone=a rate=1r/s;',                   'invalid value "a" of "zone"' ],
    [ 'rate_limit_zone one zone=a: rate=1r/s;',                  'invalid value "a:" of "zone"' ],
    [ 'rate_limit_zone one zone=:1m rate=1r/s;',                 'invalid value ":1m" of "zone"' ],
    [ 'rate_limit_zone one zone=a:1x rate=1r/s;',                'invalid value "a:1x" of "zone"' ],
    [ 'rate_limit_zone one zone=a:8k rate=1r/s;',                'zone "a" that is too small' ],
    [ 'rate_limit_zone one "zone=a b:1m" rate=1r/s;',            'invalid value "a b:1m" of "zone"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s algorithm=magic;', 'invalid value "magic" of "algorithm"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s algorithm=fixed_window burst=1;', '"burst" has no meaning with fixed_window' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s nodelay;',        'unknown parameter "nodelay"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s rate=2r/s;',      'duplicate parameter "rate"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s sync=lease;',     'must have "redis" parameter' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s sync=async;',     'must have "redis" parameter' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s sync=loose;',     'invalid value "loose" of "sync"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s sync=strict;',    'must have "redis" parameter' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s lease_time=1s;',  '"lease_time", which needs "sync=lease"' ],
    [ 'redis r { server 127.0.0.1; } rate_limit_zone one zone=a:1m rate=1r/s redis=r sync=async lease_time=1s;', '"lease_time", which needs "sync=lease"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s redis=r sync=lease lease_time=0;',   'invalid value "0" of "lease_time"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s redis=r sync=lease lease_time=61s;', 'invalid value "61s" of "lease_time"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s redis=r sync=lease lease_time=soon;', 'invalid value "soon" of "lease_time"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s on_error=allow;', '"on_error", which needs "redis"' ],
    [ 'rate_limit_zone one zone=a:1m rate=1r/s redis=none;',     'names unknown redis "none"' ],
    [ 'redis r { server 127.0.0.1; } rate_limit_zone one zone=a:1m rate=1r/s redis=r on_error=panic;', 'invalid value "panic" of "on_error"' ],
    [ "${zone}rate_limit_zone two zone=a:1m rate=2r/s;",         'duplicate zone "a"', 1 ],
    [ 'server { rate_limit_zone one zone=a:1m rate=1r/s; }',     '"rate_limit_zone" directive is not allowed here' ],

    # rate_limit and what stands beside it
    [ in_server('rate_limit zone=b;'),                  'names unknown zone "b"',         1 ],
    [ in_server('rate_limit burst=1;'),                 'must have "zone" parameter',     1 ],
    [ in_server('rate_limit zone=a burst=x;'),          'invalid value "x" of "burst"',   1 ],
    [ in_server('rate_limit zone=a burst=5 delay=1 nodelay;'), 'both "delay" and "nodelay"', 1 ],
    [ in_server('rate_limit zone=a delay=x;'),          'invalid value "x" of "delay"',   1 ],
    [ in_server('rate_limit zone=a nodelay=1;'),        'of "nodelay"',                   1 ],
    [ in_server('rate_limit zone=a dry_run=on;'),       'of "dry_run"',                   1 ],
    [ in_server('rate_limit zone=a cost=-1;'),          'invalid value "-1" of "cost"',   1 ],
    [ in_server('rate_limit zone=a cost=$no_such;'),    'unknown "no_such" variable', undef ],
    [ in_server('rate_limit zone=a when=;'),            '"when"',                         1 ],
    [ in_server('rate_limit zone=a sometimes;'),        'unknown parameter "sometimes"',  1 ],
    [ in_server('rate_limit zone=a; rate_limit zone=a burst=1;'), 'duplicate zone "a"',   1 ],
    [ in_server('rate_limit_status 200;'),              'invalid value "200" of "rate_limit_status"', 1 ],
    [ in_server('rate_limit_status 600;'),              'invalid value "600" of "rate_limit_status"', 1 ],
    [ in_server('rate_limit_status;'),                  'invalid number of arguments',    1 ],
    [ in_server('rate_limit_status 429; rate_limit_status 503;'), '"rate_limit_status" directive is duplicate', 1 ],
    [ in_server('rate_limit_headers some;'),            'invalid value "some" of "rate_limit_headers"', 1 ],
    [ in_server('rate_limit_reset never;'),             'invalid value "never" of "rate_limit_reset"', 1 ],
    [ in_server('rate_limit_log_level crit;'),          'invalid value "crit" of "rate_limit_log_level"', 1 ],
    [ in_server('rate_limit_dry_run maybe;'),           'invalid value "maybe" of "rate_limit_dry_run"', 1 ],
    [ in_server('reject_format xml;'),                  'invalid value "xml" of "reject_format"', 1 ],
    [ in_server("location / {\nrate_limit zone=b;\n}"), 'names unknown zone "b"',         2 ],
    [ "rate_limit_zone one zone=a:1m rate=1r/s algorithm=fixed_window;\nserver { rate_limit zone=a burst=2; }", '"burst" has no meaning', 1 ],
    [ "rate_limit_zone one zone=a:1m rate=1r/s algorithm=sliding_window;\nserver { rate_limit zone=a delay=2; }", '"delay" needs "burst"', 1 ],

    # redis
    [ 'redis main { }',                                 'server' ],
    [ 'redis { server 127.0.0.1; }',                    'invalid number of arguments' ],
    [ "redis m { server 127.0.0.1; }\nredis m { server 127.0.0.1; }", 'duplicate name "m"', 1 ],
    [ "redis m {\nserver 127.0.0.1:0;\n}",              '127.0.0.1:0',     1 ],
    [ "redis m {\nserver 127.0.0.1:70000;\n}",          '127.0.0.1:70000', 1 ],
    [ "redis m {\nserver 127.0.0.1:port;\n}",           '127.0.0.1:port',  1 ],
    [ "redis m {\nserver unix:;\n}",                    'unix:',           1 ],
    [ "redis m {\nserver ::1::2;\n}",                   '::1::2',          1 ],
    [ "redis m {\nserver a b;\n}",                      'takes one argument', 1 ],
    [ "redis m {\nserver 127.0.0.1;\nshout on;\n}",     '"shout" in "redis" is unknown', 2 ],
    [ in_redis('timeout soon;'),                        'invalid value "soon" of "timeout"' ],
    [ in_redis('timeout -1s;'),                         'invalid value "-1s" of "timeout"' ],
    [ in_redis('timeout 0;'),                           'timeout' ],
    [ in_redis('connect_timeout x;'),                   'invalid value "x" of "connect_timeout"' ],
    [ in_redis('timeout 1s; timeout 2s;'),              '"timeout" in "redis" is duplicate' ],
    [ in_redis('mode magic;'),                          'invalid value "magic" of "mode"' ],
    [ in_redis('mode sentinel;'),                       'must have "master" parameter' ],
    [ in_redis('master m;'),                            'outside of sentinel mode' ],
    [ in_redis('mode cluster; database 1;'),            'in cluster mode has no "database" but 0' ],
    [ in_redis('database x;'),                          'invalid value "x" of "database"' ],
    [ in_redis('database -1;'),                         'invalid value "-1" of "database"' ],
    [ in_redis('password_file /no/such/file;'),         'cannot read "/no/such/file"' ],
    [ in_redis('password a; password_file /no/such;'),  'cannot read "/no/such"' ],
    [ in_redis('username u;'),                          'username' ],
    [ in_redis('tls_name x;'),                          'without "tls on"' ],
    [ in_redis('tls_ca /etc/hostname;'),                'without "tls on"' ],
    [ in_redis('tls_verify off;'),                      'without "tls on"' ],
    [ in_redis('tls maybe;'),                           'invalid value "maybe" of "tls"' ],
    [ in_redis('key_prefix "a{b}";'),                   'invalid value "a{b}" of "key_prefix"' ],
    [ in_redis('breaker failures=0;'),                  'invalid value "0" of "failures"' ],
    [ in_redis('breaker open=x;'),                      'invalid value "x" of "open"' ],
    [ in_redis('breaker often;'),                       'unknown parameter "often"' ],
);

my $dir = conf(http => 'MARK');
my ($first) = grep { line_of($dir, $_) =~ /MARK/ } 1 .. 20;

sub line_of {
    my ($where, $number) = @_;
    open my $file, '<', "$where/nginx.conf" or die $!;
    my @lines = <$file>;
    return $lines[ $number - 1 ] // '';
}

for my $case (@refused) {
    my ($text, $part, $line) = @$case > 2 ? @$case : (@$case, 0);
    (my $name = $text) =~ s/\s+/ /g;
    my ($status, $said) = nginx_t(http => $text);
    # Unknown variables are the core's to report, and it names no place.
    my $place = defined $line ? ' in \S+/nginx\.conf:' . ($first + $line) : '';
    my ($emerg) = $said =~ /^(.*\[emerg\].*)$/m;
    ok $status == 1 && defined $emerg && index($emerg, $part) >= 0 && $emerg =~ /$place$/, $name
        or diag "wanted: $part … $place\ngot: $said";
}

# A password is in no message.
my (undef, $said) = nginx_t(http => in_redis('password hush-hush; password hush-hush;'));
unlike $said, qr/hush/, 'a password is not repeated';

for my $taken (
    'rate_limit_zone $binary_remote_addr$uri zone=a.b-c_1:64k rate=20r/10s burst=5;',
    'rate_limit_zone one zone=a:32k rate=10000r/d;',
    'rate_limit_zone one zone=a:1m rate=1r/s redis=later; redis later { server localhost; server [::1]:6380; }',
    'redis r { server unix:/tmp/redis.sock; database 3; username u; password p; key_prefix my/app:1; connect_timeout 2s; timeout 5ms; breaker failures=1 open=100ms; }',
    'redis r { server 127.0.0.1; } rate_limit_zone one zone=a:1m rate=1r/s redis=r sync=lease lease_time=5ms; rate_limit_zone one zone=b:1m rate=1r/s redis=r sync=async on_error=deny;',
    in_server('rate_limit zone=a burst=3 delay=2 cost=$arg_c when=$arg_w dry_run; rate_limit_status 503; rate_limit_headers all;'),
) {
    my ($status, $text) = nginx_t(http => $taken);
    is $status, 0, "taken: $taken" or diag $text;
}
done_testing;
