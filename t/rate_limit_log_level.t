# What is logged: refusals at rate_limit_log_level, delays one below, and the variables in an access log.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Run;
use Test::More;

my $port    = free_port();
my $gateway = gateway(main => 'error_log logs/error.log info;', http => <<"CONF");
map \$arg_t \$rate { bad 10x; default 1r/m; }
rate_limit_zone \$arg_k zone=one:1m   rate=1r/m;
rate_limit_zone \$arg_k zone=slow:1m  rate=20r/s burst=1;
rate_limit_zone \$arg_k zone=cost:1m  rate=1r/m burst=9;
rate_limit_zone \$arg_k zone=bad:1m   rate=\$rate;
log_format limits '\$rate_limit_status|\$rate_limit_zone|\$rate_limit_limit|\$rate_limit_remaining|\$rate_limit_reset|\$rate_limit_source';
rate_limit_reset delta;
server {
    listen 127.0.0.1:$port;
    access_log logs/limits.log limits;
    location /default { rate_limit zone=one nodelay; empty_gif; }
    location /info    { rate_limit zone=one nodelay; rate_limit_log_level info; empty_gif; }
    location /notice  { rate_limit zone=one nodelay; rate_limit_log_level notice; empty_gif; }
    location /warn    { rate_limit zone=one nodelay; rate_limit_log_level warn; empty_gif; }
    location /error   { rate_limit zone=one nodelay; rate_limit_log_level error; empty_gif; }
    location /slow    { rate_limit zone=slow; empty_gif; }
    location /slower  { rate_limit zone=slow; rate_limit_log_level notice; empty_gif; }
    location /dry     { rate_limit zone=one dry_run; empty_gif; }
    location /cost    { rate_limit zone=cost nodelay cost=\$arg_c; empty_gif; }
    location /rate    { rate_limit zone=bad nodelay; empty_gif; }
    location /skip    { rate_limit zone=one when=0; empty_gif; }
    location /none    { empty_gif; }
    location /close   { rate_limit zone=one nodelay; rate_limit_status 444; empty_gif; }
}
CONF

# since($code): the new lines of the error log.
my $seen = 0;
sub since {
    my $log = substr $gateway->log, $seen;
    $seen += length $log;
    return $log;
}

sub get_all { [ map { status_of(get($port, $_)) } @_ ] }

for ([ default => 'error' ], map { [ $_ => $_ ] } qw(info notice warn error)) {
    my ($path, $level) = @$_;
    get_all("/$path?k=$path", "/$path?k=$path");
    my @lines = since() =~ /^.*(?:limiting|delaying).*$/mg;
    is scalar @lines, 1, "$path: one line for one refusal";
    like $lines[0], qr/\[$level\] .*: \*\d+ limiting requests, retry after \d+ ms, zone "one", by local, client: 127\.0\.0\.1, server: /, "$path: at $level";
}

for ([ slow => 'warn' ], [ slower => 'info' ]) {
    my ($path, $level) = @$_;
    is_deeply get_all("/$path?k=$path", "/$path?k=$path"), [ 200, 200 ], "$path: both pass";
    like since(), qr/\[$level\] .*delaying request, \d+ ms, zone "slow", by local/, "$path: the delay is logged at $level";
}

is_deeply get_all('/dry?k=dry', '/dry?k=dry'), [ 200, 200 ], 'dry run: both pass';
like since(), qr/\[error\] .*limiting requests, dry run/, 'dry run: logged as a refusal would be';

get_all('/cost?k=c&c=99999999999999999999', '/cost?k=c&c=x%0a', '/cost?k=c&c=-1');
is scalar(() = since() =~ /rate limit cost ".*?" is not a whole number, 1 is charged/g), 3, 'a bad cost is logged';

is_deeply get_all(map { '/rate?k=r&t=bad' } 1 .. 5), [ (200) x 5 ], 'a bad rate: not limited';
my @lines = since() =~ /^.*limit not applied.*$/mg;
is scalar @lines, 1, 'a bad rate: one line a minute';
like $lines[0], qr/\[error\] .*limit not applied: invalid rate "10x".*, zone "bad"/, 'a bad rate: said which';

is get($port, '/close?k=close') && get($port, '/close?k=close'), '', '444 closes the connection without an answer';

my $skip = -s "$gateway->{dir}/logs/limits.log";
get_all('/slow?k=v', '/slow?k=v', '/default?k=v', '/default?k=v', '/none', '/skip?k=v');
open my $file, '<', "$gateway->{dir}/logs/limits.log" or die $!;
seek $file, $skip, 0;
chomp(my @said = <$file>);
like $said[0], qr/^PASSED\|slow\|20\|1\|1\|local$/, 'variables: passed';
like $said[1], qr/^DELAYED\|slow\|20\|[01]\|1\|local$/, 'variables: delayed';
like $said[2], qr/^PASSED\|one\|1\|0\|60\|local$/, 'variables: passed, nothing left';
like $said[3], qr/^REJECTED\|one\|1\|0\|60\|local$/, 'variables: rejected';
is $said[4], '-|-|-|-|-|-', 'variables: no limit here';
is $said[5], 'BYPASSED|-|-|-|-|-', 'variables: bypassed';

ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
done_testing;
