# Reload: counts stay, a changed rate holds, another key is refused and the old configuration goes on.
use strict;
use warnings;
use lib 't/lib';
use Sluice::Load;
use Sluice::Run;
use Test::More;

my $redis = redis();
my $port  = free_port();

sub http {
    my %of = (key => '$arg_k', size => '1m', rate => '60r/h burst=9', algorithm => 'gcra', @_);
    return <<"CONF";
redis main { server 127.0.0.1:$redis->{port}; timeout 1s; }
rate_limit_zone $of{key} zone=local:$of{size} rate=$of{rate} algorithm=$of{algorithm};
rate_limit_zone \$arg_k zone=redis:1m rate=60r/h burst=9 redis=main;
rate_limit_zone \$arg_k zone=load:1m rate=6r/h burst=99;
server {
    listen 127.0.0.1:$port;
    location /local { rate_limit zone=local nodelay; empty_gif; }
    location /redis { rate_limit zone=redis nodelay; empty_gif; }
    location /load  { rate_limit zone=load nodelay; empty_gif; }
}
CONF
}

sub conf_of { return (main => 'error_log logs/error.log info;', workers => 2, http => http(@_)) }
sub left { header_of(get($port, "/$_[0]?k=$_[1]"), 'X-RateLimit-Remaining') }

my $gateway = gateway(conf_of());
is left('local', 'a'), 9, 'first of this host';
is left('redis', 'a'), 9, 'first in Redis';
ok $gateway->reload(conf_of()), 'reload';
is left('local', 'a'), 8, 'this host counts on';
is left('redis', 'a'), 8, 'Redis counts on';

ok $gateway->reload(conf_of(rate => '60r/h burst=4')), 'reload with a smaller burst';
is left('local', 'a'), 2, 'what was used stays used';
ok $gateway->reload(conf_of(size => '2m')), 'reload with a larger zone';
is left('local', 'a'), 9, 'another size starts clean, as with limit_req';

# Refused: the old workers go on, with what they know.
my @workers = sort $gateway->workers;
Sluice::Run::write_conf($gateway->{dir}, conf_of(size => '2m', key => '$arg_other'));
$gateway->signal('HUP');
ok wait_until(5, sub { $gateway->log =~ /\[emerg\] .*zone "(?:rate_limit:)?local" uses the "\$arg_other" key while previously it used the "\$arg_k" key/ }), 'another key is refused';
is_deeply [ sort $gateway->workers ], \@workers, 'the workers stay';
is left('local', 'a'), 8, 'and go on counting';

ok $gateway->reload(conf_of(size => '2m', algorithm => 'sliding_window', rate => '10r/h')), 'another algorithm';
is left('local', 'a'), 9, 'starts clean';
ok $gateway->reload(), 'and reloads again';
is left('local', 'a'), 8, 'keeping what it counted since';

# Under load no request is lost, and none is admitted for nothing.
my $turns = 0;
my @answers = load_for(2, [$port], '/load?k=x', at_once => 4, meanwhile => sub { $gateway->signal('HUP') if $turns++ % 150 == 0 });
is count_of(qr/0|5\d\d/, @answers), 0, 'reload under load: every request is answered, ' . @answers;
is count_of(200, @answers), 100, 'reload under load: exactly 100';
ok wait_until(10, sub { $gateway->workers == 2 }), 'only two workers are left' or diag substr $gateway->log, -1500;

ok $gateway->quit, 'QUIT ends it';
unlike $gateway->log, qr/\[(?:alert|crit)\]|panic|exited on signal/, 'nothing bad in its log';
done_testing;
