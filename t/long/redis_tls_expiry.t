# A certificate of Redis expires while gateways are connected: they go on; who connects anew does not trust it, says so once, and
# limits by the host; with a new certificate in Redis all is well again, without a reload.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Certificates;
use Sluice::Load;
use Sluice::Redis;
use Sluice::Run;
use Test::More;
use Time::HiRes 'time';

plan skip_all => 'long: scripts/test --long' if !$ENV{TEST_SLUICE_LONG};

# A request may take so much longer than the deadline of 50 ms on a machine that does a lot besides.
my $late = 0.5;

my $life  = 8;
my $made  = time;
my $files = certificates(server => { seconds => $life }, next => {}, client => { names => 'DNS:gateway.example', seconds => $life });
my $redis = tls_server($files, args => [qw(--tls-auth-clients yes)]);
my ($watch, $port) = (watch(), free_port());
my $gateway = gateway(workers => 2, main => 'error_log logs/error.log notice;', http => <<"CONF");
redis main { server 127.0.0.1:$redis->{port}; tls on; tls_ca $files/ca.crt; }
redis own { server 127.0.0.1:$redis->{port}; tls on; tls_ca $files/ca.crt; tls_certificate $files/client.crt; tls_certificate_key $files/client.key; timeout 500ms; }
rate_limit_zone \$arg_k zone=own:1m rate=100000r/h burst=99999 redis=own;
rate_limit_log_level info;
server { listen 127.0.0.1:$port; $watch location / { rate_limit zone=own nodelay; empty_gif; } }
CONF
sub lost { my @lines = $gateway->log =~ /redis is lost: ([^\n]*), redis "own"/g; return @lines }
sub up { return 20 == by('redis', burst(20, [$port], '/?k=1', at_once => 4)) }

ok wait_until(5, \&up), 'up';
cmp_ok time - $made, '<', $life - 1, 'in time';
my @answers = load_for($life + 2 - (time - $made), [$port], '/?k=1', at_once => 4);
is scalar(by('fallback', @answers)), 0, 'expired: connections go on, ' . @answers . ' requests';
is scalar(lost()), 0, 'expired: not lost';

# Both certificates have expired; each is refused by the other side.
$redis->must(qw(CLIENT KILL TYPE normal));
@answers = load_for(1.5, [$port], '/?k=1', at_once => 4);
is scalar(unwell(@answers)), 0, 'thrown out: no 5xx among ' . @answers;
cmp_ok slowest(@answers), '<', $late + 0.5, 'thrown out: none is late';
ok scalar(by('fallback', @answers)), 'thrown out: by this host';
is scalar(grep {/certificate expired/} lost()), 1, 'thrown out: one line for the host, which says why';
is scalar(lost()), 1, 'thrown out: no other';

# A new certificate for Redis. That of the gateways is read at start: the server says what is wrong with it.
$redis->must('CONFIG', 'SET', 'tls-cert-file', "$files/next.crt", 'tls-key-file', "$files/next.key");
ok !wait_until(1.5, \&up), 'the expired one of the gateways is refused';
$redis->must(qw(CONFIG SET tls-auth-clients no));
my $began = time;
ok wait_until(10, \&up), 'up again without a reload';
cmp_ok time - $began, '<=', 2, 'at the next test or the one after it';
ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:emerg|alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
done_testing;
